"""What ``longrope ask`` makes of the words it is given, before anything is sent."""

import io
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from longrope_vllm.client.documents import (
    Document,
    FileId,
    read_sources,
    split_question,
    without_repetitions,
)
from longrope_vllm.errors import LongRopeError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spool").mkdir()
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "b.md").write_text("second")
    return tmp_path


def read(*names: str) -> tuple[Document | FileId, ...]:
    return read_sources(names, spool=Path("spool"))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "names", "question"),
    [
        (["a.md", "What changed?"], ("a.md",), "What changed?"),
        (["a.md", "b.md", "Why?"], ("a.md", "b.md"), "Why?"),
        (["-", "Summarize."], ("-",), "Summarize."),
        (["file-abc_1", "Is v1.2 out?"], ("file-abc_1",), "Is v1.2 out?"),
        (["a.md", "b.md"], ("a.md", "b.md"), None),
        (["a.md"], ("a.md",), None),
    ],
)
def test_the_last_word_is_the_question_unless_it_names_a_source(
    words: list[str], names: tuple[str, ...], question: str | None
) -> None:
    assert split_question(words) == (names, question)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "found nothing"),
        (["What changed?"], "found no file 'What changed?'"),
        (["a.md", "c.md"], "looks like a file that is not there"),
        (["a.md", " "], "found an empty one"),
    ],
)
def test_a_question_without_a_file_or_a_file_that_is_missing_is_no_question(words: list[str], said: str) -> None:
    with pytest.raises(LongRopeError, match=re.escape(said)):
        split_question(words)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("c.md", "can be read at c.md, found: No such file"),
        ("spool", "found the folder spool"),
        ("empty.md", "empty.md, which is empty"),
    ],
)
def test_what_is_missing_empty_or_a_folder_is_refused(name: str, said: str) -> None:
    Path("empty.md").touch()
    with pytest.raises(LongRopeError, match=said):
        read("a.md", name)


def test_an_unreadable_file_is_refused(folder: Path) -> None:
    (folder / "loop.md").symlink_to("loop.md")  # which root cannot read either
    with pytest.raises(LongRopeError, match="found: Too many levels of symbolic links"):
        read("loop.md")


def test_documents_keep_their_order_beside_files_of_the_server(folder: Path) -> None:
    a, kept, b = read("a.md", "file-1", str(folder / "b.md"))
    assert isinstance(a, Document)
    assert isinstance(b, Document)
    assert (a.name, a.size, b.name, kept) == ("a.md", 5, "b.md", FileId(id="file-1"))


@pytest.mark.usefixtures("folder")
def test_a_file_on_this_machine_goes_before_one_of_the_server() -> None:
    Path("file-1").write_text("here")
    (found,) = read("file-1")
    assert isinstance(found, Document)


@pytest.mark.parametrize(("content", "name"), [(b"text", "stdin.txt"), (b"%PDF-1.7 ...", "stdin.pdf")])
@pytest.mark.usefixtures("folder")
def test_standard_input_is_named_by_what_it_holds(content: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(content)))
    (found,) = read("-")
    assert isinstance(found, Document)
    assert (found.name, found.path.read_bytes(), found.size) == (name, content, len(content))


def test_a_pipe_is_read_once_like_standard_input(folder: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"from a command")
    os.close(writing)
    (found,) = read(f"/dev/fd/{reading}")
    os.close(reading)
    assert isinstance(found, Document)
    assert found.path.read_bytes() == b"from a command"


@pytest.mark.usefixtures("folder")
def test_standard_input_can_be_named_once() -> None:
    with pytest.raises(LongRopeError, match="found it twice"):
        read("-", "a.md", "-")


@pytest.mark.usefixtures("folder")
def test_the_same_content_counts_once_under_whatever_name() -> None:
    Path("copy.md").write_text("first")
    kept, repeated = without_repetitions(read("a.md", "b.md", "copy.md", "file-1", "file-1"))
    assert [getattr(source, "name", None) for source in kept] == ["a.md", "b.md", None]
    assert repeated == (("copy.md", "a.md"), ("file-1", "file-1"))
