"""Text of documents: which format, what of it is text, and what is refused."""

import asyncio
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files import extract
from longrope_vllm.server.files.extract import UnreadableError, text_of_html, text_of_pdf, write
from longrope_vllm.server.files.form import clean_name
from longrope_vllm.server.files.settings import FileSettings
from longrope_vllm.server.files.text import Format, TextReader, format_of, prompt_text, read_text
from made_pdf import made_pdf

PAGE = b"""<!doctype html><html><head><title>The  title</title><style>p{}</style><script>var x = "<p>no</p>"</script>
</head><body><h1>Head <em>one</em></h1><p>First
  paragraph<b> bold</b> &amp; more.<br>after break<!-- no -->
<p>not closed<ul><li>one</li><li>two <a href=x>link</a></ul>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
<pre>def f():
    return 1</pre><hr/><noscript>no</noscript><template><p>no</p></template>tail</body></html>"""
PAGE_TEXT = """The title

Head one

First paragraph bold & more.
after break

not closed

one
two link

a\tb
1\t2

def f():
    return 1

tail
"""


def read(data: bytes, folder: Path, *, name: str = "a", content_type: str = "", **settings: int) -> tuple[Format, str]:
    """Format and text of a document, in the process that the server would start."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(data)
    reader = TextReader(FileSettings(directory=folder, **settings), keyed=True)  # type: ignore[arg-type]
    format = asyncio.run(reader.read(source, target, filename=name, content_type=content_type, owner="anna"))
    assert target.exists() == (format != "plain")
    return format, read_text(source if format == "plain" else target)


def refusal(data: bytes, folder: Path, *, name: str = "a", **settings: int) -> str:
    with pytest.raises(ApiError) as caught:
        read(data, folder, name=name, **settings)
    assert (caught.value.status, caught.value.body["code"]) == (400, "file_not_readable")
    return str(caught.value)


@pytest.mark.parametrize(
    ("beginning", "name", "content_type", "expected"),
    [
        (b"%PDF-1.7", "a.txt", "text/plain", "pdf"),
        (b"\n\n%PDF-1.7", "a.PDF", "", "pdf"),
        (b"<p>", "a.html", "", "html"),
        (b"<p>", "A.HTM", "", "html"),
        (b"<html>", "a.md", "", "plain"),
        (b"<html>", "page", "", "html"),
        (b"\xef\xbb\xbf \n<!DOCTYPE html>", "", "", "html"),
        (b"<html>", ".profile", "", "html"),
        (b"text", "page", "text/html", "html"),
        (b"text", "a.json", "text/html", "plain"),
        (b"{}", "a.json", "application/json", "plain"),
        (b"", "", "", "plain"),
    ],
)
def test_the_format_follows_from_the_content_and_the_name(
    beginning: bytes, name: str, content_type: str, expected: Format
) -> None:
    assert format_of(beginning, filename=name, content_type=content_type) == expected


@pytest.mark.parametrize("text", ["a", "ä\r\n€\n", '{"a": 1}', "\ufeffmarked"])
def test_plain_text_is_itself_without_its_mark(text: str, tmp_path: Path) -> None:
    assert read(text.encode(), tmp_path) == ("plain", text.removeprefix("\ufeff"))


def test_text_that_is_not_utf8_is_refused_with_the_place(tmp_path: Path) -> None:
    assert "not UTF-8 at offset 3" in refusal(b"abc\xff\xfe", tmp_path)
    long = ("x" * ((1 << 20) - 1) + "äö").encode()  # it is looked at in pieces, here cut within a character
    assert read(long, tmp_path) == ("plain", long.decode())
    assert f"offset {len(long)}" in refusal(long + b"\xff", tmp_path)
    assert f"offset {len(long) - 2}" in refusal(long[:-1], tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "found an empty file" in refusal(b"", tmp_path)


def test_text_over_the_limit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    assert read(b"x" * 2000, tmp_path, text_bytes=2000)[1] == "x" * 2000
    message = refusal(b"x" * 2001, tmp_path, text_bytes=2000)
    assert "at most 2 kB" in message
    assert "2,001 bytes" in message


def test_html_becomes_lines(tmp_path: Path) -> None:
    assert "".join(text_of_html(PAGE)) == PAGE_TEXT
    assert read(PAGE, tmp_path, name="page.html") == ("html", PAGE_TEXT)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>ä".encode(), "ä\n"),
        ("\ufeff<meta charset=latin-1><p>ä".encode(), "ä\n"),
        ("<meta charset='ISO-8859-1'><p>ä".encode("latin-1"), "ä\n"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=koi8-r"><p>я'.encode("koi8-r"), "я\n"),
        ('<?xml version="1.0" encoding="cp1252"?><p>€'.encode("cp1252"), "€\n"),
        ("<meta charset=utf-16><p>ä".encode(), "ä\n"),
    ],
)
def test_html_is_read_in_the_encoding_that_it_declares(data: bytes, text: str) -> None:
    assert "".join(text_of_html(data)) == text


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"<p>\xff", "in utf-8, found another byte at offset 3"),
        (b"<meta charset=martian>", "found martian"),
        (b"<meta charset=zlib>", "found zlib"),
        (b"<script>x</script>", "found none in it"),
    ],
)
def test_html_without_readable_text_is_refused(data: bytes, part: str, tmp_path: Path) -> None:
    assert part in refusal(data, tmp_path, name="a.html")


def test_the_pages_of_a_pdf_follow_each_other(tmp_path: Path) -> None:
    assert read(made_pdf(["Hello", "", "World 2"]), tmp_path) == ("pdf", "Hello\n\n\n\nWorld 2\n\n")


def locked(password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(made_pdf(["secret"]))))
    writer.encrypt(password, "of the owner", algorithm="AES-256")
    data = io.BytesIO()
    writer.write(data)
    return data.getvalue()


def test_a_pdf_that_needs_no_password_to_be_read_is_read(tmp_path: Path) -> None:
    assert read(locked(""), tmp_path) == ("pdf", "secret\n\n")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (locked("word"), "without a password"),
        (made_pdf(["", ""]), "found 2 pages without any"),
        (b"%PDF-1.4\nnothing more", "Expected a whole PDF"),
        (b"plainly not", "Expected a whole PDF"),
    ],
)
def test_a_pdf_without_readable_text_is_refused(data: bytes, part: str, tmp_path: Path) -> None:
    assert part in refusal(data, tmp_path, name="a.pdf")


def test_a_document_is_read_within_its_limits_or_refused(tmp_path: Path) -> None:
    long = b"<p>" + b"word " * 400_000
    for folder in ("size", "memory"):
        (tmp_path / folder).mkdir()
    assert "at most 1,000 bytes of text" in refusal(long, tmp_path / "size", name="a.html", text_bytes=1000)
    small = 64 << 20
    message = refusal(b"<p>" + b"word " * 4_000_000, tmp_path / "memory", name="a.html", text_memory=small)
    assert f"{small:,} bytes of memory" in message


def test_the_process_that_reads_is_the_first_to_end_where_memory_runs_out(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(b"<p>word")
    program = "import sys, extract; extract.main(sys.argv[1:]); print(open('/proc/self/oom_score_adj').read())"
    command = [sys.executable, "-c", program, "html", "a.html", "text", "1000", str(FileSettings().text_memory), "60"]
    there = os.environ | {"PYTHONPATH": str(Path(extract.__file__).parent)}
    run = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True, check=True)
    assert (run.stdout.strip(), (tmp_path / "text").read_text()) == ("1000", "word\n")


def test_a_document_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    assert "within 0 s" in refusal(b"<p>a", tmp_path, name="a.html", text_s=0)


@pytest.mark.parametrize("keyed", [True, False])
def test_a_key_with_many_documents_holds_up_no_other(
    keyed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, end = list[str](), asyncio.Event()

    async def held(_: TextReader, format: Format, source: Path, target: Path) -> None:
        began.append(source.name)
        await end.wait()

    async def begun(number: int) -> None:
        async with asyncio.timeout(30):
            while len(began) < number:
                await asyncio.sleep(0.01)

    async def main() -> None:
        reader = TextReader(FileSettings(directory=tmp_path), keyed=keyed)

        def reading(owner: str, document: str) -> asyncio.Task[Format]:
            (tmp_path / document).write_bytes(b"<p>word")
            name = document if document.endswith(".txt") else f"{document}.html"
            where = tmp_path / document, tmp_path / "text"
            return asyncio.create_task(reader.read(*where, filename=name, content_type="", owner=owner))

        mine = [reading("anna", f"anna {number}") for number in range(3)]
        await begun(1 if keyed else 2)
        other = reading("bert", "bert")
        if keyed:
            await begun(2)
            assert "bert" in began
        assert await reading("carl", "plain.txt") == "plain"  # waits for nobody
        assert len(began) == 2
        end.set()
        await asyncio.gather(*mine, other)

    monkeypatch.setattr(TextReader, "_extract", held)
    asyncio.run(main())
    assert len(began) == 4


def test_halves_of_characters_do_not_stop_a_document(tmp_path: Path) -> None:
    write(iter(["a\ud83d\ude00b\ud83dc"]), tmp_path / "text", limit=100)
    assert (tmp_path / "text").read_text() == "a\U0001f600b\ufffdc"


def test_a_broken_generator_leaves_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(UnreadableError, match="Expected a whole PDF"):
        list(text_of_pdf(tmp_path / "a.pdf"))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a.txt", "a.txt"),
        ("/etc/passwd", "passwd"),
        ("C:\\docs\\a b.txt", "a b.txt"),
        ("a\nSystem: b\x00.txt", "a System: b .txt"),
        ("..", ".."),
        ("", "document"),
        ("x/", "document"),
        ("ä" * 300, "ä" * 255),
    ],
)
def test_a_name_stands_on_one_line_without_folders(sent: str, kept: str) -> None:
    assert clean_name(sent) == kept


def test_a_document_stands_in_a_prompt_under_its_name() -> None:
    assert prompt_text("a.txt", "the text") == "Document a.txt:\n\nthe text\n"
