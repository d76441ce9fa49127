"""Text of a document: what it is in, and the same text for the same file each time, so that prefix caches are reused.

What is text already (plain, Markdown, JSON, CSV, source code) stays as it is and must be UTF-8. HTML and PDF are read
by a process of their own, which ends with its limits, its request or its server.
"""

import asyncio
import codecs
import sys
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files import extract
from longrope_vllm.server.files.amounts import format_size
from longrope_vllm.server.files.settings import TEXTS_AT_ONCE, FileSettings

Format = Literal["plain", "html", "pdf"]

_PIECE = 1 << 20


def format_of(beginning: bytes, *, filename: str, content_type: str) -> Format:
    """By the first bytes of a document and its name; the content type decides for a name that says nothing."""
    if beginning.startswith(b"%PDF-") or filename.lower().endswith(".pdf"):
        return "pdf"
    name, dot, ending = filename.lower().rpartition(".")
    if ending in ("html", "htm", "xhtml"):
        return "html"
    if dot and name:
        return "plain"
    start = beginning.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return "html" if content_type == "text/html" or start.startswith((b"<!doctype html", b"<html")) else "plain"


def prompt_text(filename: str, text: str) -> str:
    """A document as it stands in a message. Always the same, or no question would find the cache of the one before."""
    return f"Document {filename}:\n\n{text}\n"


def read_text(path: Path) -> str:
    """UTF-8 without its byte order mark, line ends as they are."""
    return path.read_bytes().decode("utf-8-sig")


def check_plain(path: Path, *, limit: int) -> None:
    """Raise ``ApiError`` unless ``path`` is UTF-8, at least one byte and at most ``limit``."""
    size = path.stat().st_size
    if size == 0:
        raise unreadable("Expected a document, found an empty file.")
    if size > limit:
        raise unreadable(
            f"Expected at most {format_size(limit)} of text in one document, found {size:,} bytes: split the document."
        )
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):  # in pieces: any number of documents is looked at, at the same time
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(piece, final=offset + len(piece) >= size)
            except UnicodeDecodeError as error:
                raise unreadable(
                    "Expected text in UTF-8, HTML or PDF, found a byte that is not UTF-8 at offset "
                    f"{offset - waiting + error.start}: convert the file."
                ) from None
            offset += len(piece)


def unreadable(message: str) -> ApiError:
    """The refusal of a document without text for us."""
    return ApiError(message, status=400, code="file_not_readable", param="file")


class TextReader:
    """Makes text of documents, within the limits of ``settings``.

    With ``keyed`` no owner has more than one document read at a time, so that nobody waits for the many of another.
    """

    def __init__(self, settings: FileSettings, *, keyed: bool) -> None:
        self._settings = settings
        self._of_an_owner = 1 if keyed else TEXTS_AT_ONCE
        self._slots = asyncio.Semaphore(TEXTS_AT_ONCE)
        self._turns = WeakValueDictionary[str, asyncio.Semaphore]()

    async def read(self, source: Path, target: Path, *, filename: str, content_type: str, owner: str) -> Format:
        """Write the text of ``source`` to ``target``, which is left out for plain text. Raises ``ApiError``."""
        beginning = await asyncio.to_thread(_beginning, source)
        format = format_of(beginning, filename=filename, content_type=content_type)
        if format == "plain":
            await asyncio.to_thread(check_plain, source, limit=self._settings.text_bytes)
        else:
            turn = self._turns.setdefault(owner, asyncio.Semaphore(self._of_an_owner))
            async with turn, self._slots:
                await self._extract(format, source, target)
        return format

    async def _extract(self, format: Format, source: Path, target: Path) -> None:
        limits = (self._settings.text_bytes, self._settings.text_memory, self._settings.text_s)
        command = (extract.__file__, format, str(source), str(target), *map(str, limits))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", *command),  # -P: the folder of the script is no place to import from
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(self._settings.text_s):
                said, _ = await process.communicate()
        except TimeoutError:
            raise unreadable(
                f"Expected a document that can be read within {self._settings.text_s} s, found one that takes longer: "
                "split it, or send its text."
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == extract.REFUSED:
            raise unreadable(said.decode().strip())
        if process.returncode != 0:
            raise unreadable(
                f"Expected {format.upper()} that its parser can read, found a document on which it fails: save it "
                "again, or send its text."
            )


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1024)
