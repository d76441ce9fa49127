"""Texts of a dataset that is streamed and of the program ``bible``, and what is said where there are none."""

from itertools import islice
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.texts import read_texts

BOOKS = [f"book number {number}" for number in range(40)]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset in a folder, as ``datasets`` takes it in place of a name on the hub."""
    folder = tmp_path / "books"
    folder.mkdir()
    parquet.write_table(pyarrow.table({"text": BOOKS, "title": BOOKS[::-1]}), folder / "test.parquet")
    parquet.write_table(pyarrow.table({"text": ["for training"], "title": ["T"]}), folder / "train.parquet")
    return folder


def contents(source: str) -> list[str]:
    return [text.content for text in read_texts(source, characters=1)]


def test_rows_of_a_streamed_dataset_are_texts(dataset: Path) -> None:
    assert contents(f"hub:{dataset}") == BOOKS
    assert contents(f"hub:{dataset}#title") == BOOKS[::-1]
    assert contents(f"hub:{dataset}:train") == ["for training"]
    named = [text.name for text in read_texts(f"hub:{dataset}:train", characters=1)]
    assert named == [f"{dataset}:train row 0"]


def test_a_column_or_a_split_that_is_not_there_is_one_sentence(dataset: Path) -> None:
    with pytest.raises(EvaluationError, match="Expected text in the field 'body', found NoneType in row 0 of"):
        contents(f"hub:{dataset}#body")
    with pytest.raises(EvaluationError, match=r"with the split validation on the hub, found: .*\. Check the name"):
        contents(f"hub:{dataset}:validation")


def test_a_dataset_that_breaks_off_is_one_sentence(dataset: Path) -> None:
    (dataset / "test.parquet").rename(dataset / "test-00000-of-00002.parquet")
    (dataset / "test-00001-of-00002.parquet").write_bytes(b"PAR1 and no more")
    rows = read_texts(f"hub:{dataset}", characters=1)
    assert [text.content for text in islice(rows, len(BOOKS))] == BOOKS
    with pytest.raises(EvaluationError, match=r"Expected the dataset .*books with the split test on the hub, found: "):
        next(rows)


def test_an_unknown_name_without_a_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # as without a network, and without the waiting
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        EvaluationError,
        match=r"Expected the dataset nobody/no-such with the split test on the hub, found: .*\. Check the name and the "
        "network, or give a local file",
    ):
        contents("hub:nobody/no-such")


def program(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``folder`` the only place of programs, with one called bible."""
    path = folder / "bible"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_the_program_bible_is_asked_for_all_of_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, 'echo "asked for $*"', monkeypatch)
    assert contents("bible") == ["asked for -f Gen1:1-Rev22:21\n"]


def test_a_program_bible_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "echo 'no such file: bible.data' >&2; exit 1", monkeypatch)
    with pytest.raises(EvaluationError, match=r"from the program bible, found: no such file: bible\.data"):
        contents("bible")


def test_without_the_program_bible_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match="install Debian's package bible-kjv, or name other documents"):
        contents("bible")
