"""What a user names on the command line: documents, and the question about them.

A word is a path, ``-`` for standard input, or the id of a file that a server keeps (``file-...``). Everything is
checked here, before anything is sent.
"""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from typing import IO

from longrope_vllm.errors import LongRopeError

STDIN = "-"
PDF = b"%PDF-"
"""How every PDF begins."""

_FILE_ID = re.compile(r"file-[\w-]+", re.ASCII)
_LIKE_A_FILE = re.compile(r"\S+\.[a-zA-Z]\w{0,4}")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A file on this machine, not empty and readable when it was looked at."""

    name: str
    path: Path
    size: int
    """In bytes."""
    digest: str
    """Of its bytes: two documents of one digest are the same text."""

    @property
    def is_pdf(self) -> bool:
        """Whether its bytes begin as those of a PDF."""
        with self.path.open("rb") as file:
            return file.read(len(PDF)) == PDF


@dataclass(frozen=True, kw_only=True)
class FileId:
    """A file that the server has already."""

    id: str


Source = Document | FileId


def split_question(words: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Names of sources, and the question: the last word, unless that names a source too.

    Raises ``LongRopeError`` when no source is named, or the last word is neither a file nor looks like a question.
    """
    if not words:
        raise LongRopeError('Expected files and a question, found nothing: longrope ask FILE... "question".')
    *names, last = words
    if _names_source(last):
        return tuple(words), None
    if not names:
        raise LongRopeError(f"Expected a file and a question, found no file {last!r}: name one, or - for stdin.")
    if not last.strip():
        raise LongRopeError("Expected a question as the last argument, found an empty one.")
    if _LIKE_A_FILE.fullmatch(last):
        raise LongRopeError(
            f"Expected a question as the last argument, found {last!r}, which looks like a file that is not there: "
            "check the name, or ask in more than one word."
        )
    return tuple(names), last


def _names_source(word: str) -> bool:
    return word == STDIN or _FILE_ID.fullmatch(word) is not None or Path(word).exists()


def read_sources(names: Sequence[str], *, spool: Path) -> tuple[Source, ...]:
    """The sources called ``names``; pipes and standard input are copied into the folder ``spool`` first.

    Raises ``LongRopeError`` for the first one that is missing, unreadable, empty or a folder.
    """
    if names.count(STDIN) > 1:
        raise LongRopeError("Expected - for standard input once, found it twice: it can be read once only.")
    return tuple(_source(name, spool / str(place)) for place, name in enumerate(names))


def without_repetitions(sources: Sequence[Source]) -> tuple[tuple[Source, ...], tuple[tuple[str, str], ...]]:
    """``sources`` with one of each content, and the names of those left out, each with the name of its like."""
    kept: dict[str, Source] = {}
    repeated = []
    for source in sources:
        key = source.digest if isinstance(source, Document) else source.id
        if key in kept:
            repeated.append((_name(source), _name(kept[key])))
        kept.setdefault(key, source)
    return tuple(kept.values()), tuple(repeated)


def _name(source: Source) -> str:
    return source.name if isinstance(source, Document) else source.id


def _source(name: str, spooled: Path) -> Source:
    if name == STDIN:
        if sys.stdin.isatty():
            raise LongRopeError("Expected a document on standard input, found a terminal: pipe a file into -.")
        return _from_stream(sys.stdin.buffer, "stdin", spooled)
    path = Path(name)
    if _FILE_ID.fullmatch(name) and not path.exists():
        return FileId(id=name)
    if path.is_dir():
        raise LongRopeError(f"Expected a file, found the folder {name}: name the files in it ({name.rstrip('/')}/*).")
    try:
        if path.exists() and not path.is_file():  # a pipe, such as <(command)
            with path.open("rb") as stream:
                return _from_stream(stream, path.name, spooled)
        return _document(path.name, path)
    except OSError as error:
        raise LongRopeError(f"Expected a file that can be read at {name}, found: {error.strerror}.") from None


def _from_stream(stream: IO[bytes], name: str, spooled: Path) -> Document:
    with spooled.open("wb") as copy:
        copyfileobj(stream, copy)
    found = _document(name, spooled)
    # A server chooses the reader of a file by its name.
    return Document(
        name=f"{name}.{'pdf' if found.is_pdf else 'txt'}", path=spooled, size=found.size, digest=found.digest
    )


def _document(name: str, path: Path) -> Document:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    if size == 0:
        raise LongRopeError(f"Expected a document with text in it, found {name}, which is empty.")
    return Document(name=name, path=path, size=size, digest=digest)
