"""Text of one HTML or PDF document, in a process of its own: ``python extract.py FORMAT SOURCE TARGET LIMITS...``.

Parsers in Python would hold up the server, and a document may be made to eat memory or time. HTML is read by the
standard library, PDF by pypdf; nothing of this package is imported, so that the process starts in a moment. LIMITS are
the most bytes of text, of memory, and seconds of computing. Exit code 0: TARGET holds the text in UTF-8. ``REFUSED``:
one line on standard output says what was expected and found. Anything else is a document on which the parser fails.
"""

import codecs
import logging
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

REFUSED = 3

_SPACED = frozenset(("h1", "h2", "h3", "h4", "h5", "h6", "p", "pre", "blockquote", "table", "ul", "ol", "dl"))
"""Elements with an empty line before them."""
_LINES = _SPACED | {
    *("address", "article", "aside", "body", "br", "caption", "dd", "details", "div", "dt", "fieldset", "figcaption"),
    *("figure", "footer", "form", "head", "header", "hr", "html", "legend", "li", "main", "nav", "section", "summary"),
    *("title", "tr"),
}
"""Elements that begin and end a line."""
_CELLS = frozenset(("td", "th"))
_DROPPED = frozenset(("script", "style", "template", "noscript"))
_ENCODING = re.compile(rb"""<(?:meta[^>]+charset|\?xml[^>]+encoding)\s*=\s*["']?\s*([\w:-]+)""", re.IGNORECASE)


class UnreadableError(Exception):
    """A document that holds no text for us; the message is one sentence."""


def text_of_html(data: bytes) -> Iterator[str]:
    """Title, headings, paragraphs, items and rows as lines; scripts and styles are dropped.

    In the encoding that the document declares, else UTF-8. Raises ``UnreadableError`` where it is in neither, and for a
    document without text.
    """
    lines = _Lines()
    lines.feed(_decoded(data))
    lines.close()
    lines.end_line()
    if not lines.lines:
        raise UnreadableError("Expected HTML with text, found none in it.")
    return (f"{line}\n" for line in lines.lines)


class _Lines(HTMLParser):
    """The lines of a document. Elements that are not closed do no harm: a line ends where the next block begins."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._line: list[str] = []
        self._spaced = False
        self._dropped = self._kept_as_is = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._dropped += tag in _DROPPED
        self._kept_as_is += tag == "pre"
        if tag in _LINES:
            self.end_line()
            self._spaced = self._spaced or tag in _SPACED
        elif tag in _CELLS and self._line:
            self._line.append("\t")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _LINES:
            self.end_line()

    def handle_endtag(self, tag: str) -> None:
        self._dropped -= tag in _DROPPED and self._dropped > 0
        self._kept_as_is -= tag == "pre" and self._kept_as_is > 0
        if tag in _LINES:
            self.end_line()
            self._spaced = self._spaced or tag in _SPACED

    def handle_data(self, data: str) -> None:
        if self._dropped:
            return
        if self._kept_as_is:
            first, *more = data.split("\n")
            self._line.append(first)
            for line in more:
                self._put_line()
                self._line = [line]
            return
        piece = re.sub(r"\s+", " ", data)
        if not self._line or self._line[-1].endswith((" ", "\t")):
            piece = piece.lstrip(" ")
        if piece:
            self._line.append(piece)

    def end_line(self) -> None:
        """Finish the line if it holds anything."""
        if any(piece.strip() for piece in self._line):
            self._put_line()
        self._line = []

    def _put_line(self) -> None:
        if self._spaced and self.lines:
            self.lines.append("")
        self._spaced = False
        self.lines.append("".join(self._line).rstrip())


def _decoded(data: bytes) -> str:
    declared = None if data.startswith(codecs.BOM_UTF8) else _ENCODING.search(data[:1024])
    encoding = declared[1].decode() if declared else "utf-8-sig"
    if encoding.lower().startswith("utf-16"):
        encoding = "utf-8"  # as browsers do: a declaration that is read byte by byte is not in UTF-16
    try:
        return data.decode(encoding)
    except LookupError:
        raise UnreadableError(f"Expected HTML in an encoding known here, found {encoding}: save it as UTF-8.") from None
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"Expected HTML in {error.encoding}, found another byte at offset {error.start}: save it as UTF-8."
        ) from None


def text_of_pdf(path: Path) -> Iterator[str]:
    """Text page by page. Raises ``UnreadableError`` for a PDF that is encrypted, broken, or without text."""
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    found = False
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("Expected a PDF without a password, found an encrypted one: save it without.")
        pages = len(reader.pages)
        for page in reader.pages:
            text = page.extract_text().strip()
            found = found or bool(text)
            yield f"{text}\n\n"
    except PyPdfError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UnreadableError(f"Expected a whole PDF, found: {reason}: save it again, or send its text.") from None
    if not found:
        raise UnreadableError(
            f"Expected a PDF with text, found {pages} pages without any: recognize its characters first."
        )


def write(pieces: Iterator[str], target: Path, *, limit: int) -> None:
    """Write ``pieces`` as UTF-8. Raises ``UnreadableError`` past ``limit`` bytes."""
    written = 0
    with target.open("xb") as file:
        for piece in pieces:
            # Halves of characters, which PDFs hold, are joined where two meet and marked where one stands alone.
            data = piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
            written += len(data)
            if written > limit:
                raise UnreadableError(f"Expected at most {limit:,} bytes of text, found more: split the document.")
            file.write(data)


def main(arguments: list[str]) -> int:
    """Run as the module says."""
    format, source, target = arguments[0], Path(arguments[1]), Path(arguments[2])
    text_bytes, memory, seconds = map(int, arguments[3:])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with suppress(OSError):  # where memory runs out, this process ends and not the engine
        Path("/proc/self/oom_score_adj").write_text("1000")
    logging.disable()
    try:
        write(text_of_pdf(source) if format == "pdf" else text_of_html(source.read_bytes()), target, limit=text_bytes)
    except UnreadableError as error:
        print(error)  # noqa: T201
        return REFUSED
    except MemoryError:
        print(f"Expected a document that can be read with {memory:,} bytes of memory, found one that needs more.")  # noqa: T201
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
