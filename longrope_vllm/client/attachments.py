"""Documents as a conversation holds them: files that the server keeps, or their text where it keeps none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from longrope_vllm.client.conversation import Part, document_part, file_part
from longrope_vllm.client.documents import Document, FileId, Source
from longrope_vllm.client.failures import FailedRequestError
from longrope_vllm.client.patience import tokens_at_most
from longrope_vllm.client.server import Sent, Server, StoredFile
from longrope_vllm.errors import LongRopeError
from longrope_vllm.lengths import format_length


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """One document of a conversation."""

    name: str
    part: Part
    tokens_at_most: int
    """What a time-out reckons with."""
    id: str | None = None
    """On the server; None for text."""
    tokens: int | None = None
    """As the server counted them."""
    longrope: dict[str, Any] | None = None
    remark: str | None = None
    """What the server says about it."""

    def describe(self) -> str:
        """One line: name, tokens, and the tier that a question about it would get, as far as the server tells."""
        counted = "" if self.tokens is None else f", {self.tokens:,} tokens"
        tier = "" if not self.longrope else f", tier {format_length(self.longrope['tier_max_length'])}"
        return f"{self.name}{counted}{tier}" + ("" if self.remark is None else f": {self.remark}")


class Told(Protocol):
    """Who is told about uploads."""

    def uploading(self, document: Document) -> Sent:
        """An upload begins; what is returned is told the bytes as they leave."""

    def uploaded(self) -> None:
        """The upload has ended, well or not."""


class Uploads:
    """Files that the server keeps for this run: a context manager that deletes them at its end."""

    def __init__(self, server: Server, *, told: Told, say: Callable[[str], None], keep: bool = False) -> None:
        self._server = server
        self._told = told
        self._say = say
        self._keep = keep
        self._uploaded: list[StoredFile] = []

    def attach(self, source: Source) -> Attachment:
        """Upload a document, or find what the server keeps under an id. Raises ``FailedRequestError``."""
        stored = self._server.stored(source.id) if isinstance(source, FileId) else self._upload(source)
        size = source.size if isinstance(source, Document) else 0
        return Attachment(
            name=stored.name,
            part=file_part(stored.id),
            tokens_at_most=tokens_at_most(size) if stored.tokens is None else stored.tokens,
            id=stored.id,
            tokens=stored.tokens,
            longrope=stored.longrope,
            remark=stored.remark,
        )

    def _upload(self, document: Document) -> StoredFile:
        sent = self._told.uploading(document)
        try:
            stored = self._server.upload(document, sent)
        finally:
            self._told.uploaded()
        self._uploaded.append(stored)
        return stored

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for stored in self._uploaded:
            if self._keep:
                self._say(f"kept {stored.id} ({stored.name})")
            else:
                self._delete(stored)

    def _delete(self, stored: StoredFile) -> None:
        try:
            self._server.delete(stored.id)
        except FailedRequestError as failure:
            self._say(f"{stored.id} ({stored.name}) is still on the server: {failure}")


def inline(sources: Sequence[Source], *, url: str) -> tuple[Attachment, ...]:
    """The text of ``sources``, for a server that keeps no files. Raises ``LongRopeError`` for what is not UTF-8."""
    return tuple(_inline(source, url) for source in sources)


def _inline(source: Source, url: str) -> Attachment:
    if isinstance(source, FileId):
        raise LongRopeError(f"Expected {url} to keep files, found none of /v1/files: name a path, not {source.id}.")
    if source.is_pdf:
        raise LongRopeError(
            f"Expected text for a server without /v1/files, found the PDF {source.name}: make it text first "
            "(pdftotext), or ask a server that reads PDFs."
        )
    try:
        text = source.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LongRopeError(
            f"Expected UTF-8 text in {source.name}, found the byte 0x{error.object[error.start]:02x} at "
            f"{error.start:,}: convert it first (iconv)."
        ) from None
    return Attachment(
        name=source.name, part=document_part(source.name, text), tokens_at_most=tokens_at_most(source.size)
    )
