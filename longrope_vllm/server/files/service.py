"""Files of one API server: an upload from its first byte to its record, and what is told and read of it later."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from fastapi import Request
from starlette.requests import ClientDisconnect

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files.file_object import FileObject, Serving, file_object
from longrope_vllm.server.files.form import Upload, UploadForm
from longrope_vllm.server.files.incoming import Incoming
from longrope_vllm.server.files.records import FileRecord
from longrope_vllm.server.files.settings import FileSettings
from longrope_vllm.server.files.store import FileStore
from longrope_vllm.server.files.text import Format, TextReader, prompt_text, read_text
from longrope_vllm.server.files.tokens import TokenCounter
from longrope_vllm.server.hang_up import made_in_thread, while_connected
from longrope_vllm.server.owner import owner_of

_FORM_BYTES = 65_536
"""What a form may take beside its file."""
_WRITTEN_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FileService:
    """The parts together. ``counter`` is None where the server has no tokenizer; ``keyed``: it asks for API keys."""

    settings: FileSettings
    store: FileStore
    reader: TextReader
    counter: TokenCounter | None
    serving: Callable[[], Serving]
    keyed: bool

    def owner(self, request: Request) -> str:
        """Whose files ``request`` may see."""
        return owner_of(request, keyed=self.keyed)

    async def upload(self, request: Request) -> FileObject:
        """Store the file in the body of ``request``: written, read, counted, then kept. Raises ``ApiError``.

        Its client has to be there to the end: nobody else learns the id.
        """
        owner = self.owner(request)
        form = UploadForm(request.headers.get("content-type"))
        body = request.headers.get("content-length")
        least, most = (0, None) if body is None else (int(body) - _FORM_BYTES, int(body))
        async with made_in_thread(partial(self.store.begin, owner, least=least, most=most)) as incoming:
            upload = await _receive(request, form, incoming)
            found = await while_connected(request, self._read(incoming, upload, owner))
            if found is None:
                raise _gone()
            format, tokens = found
            record = await asyncio.to_thread(
                self.store.keep,
                incoming,
                upload,
                owner=owner,
                format=format,
                tokens=tokens,
                tokenizer=None if self.counter is None else self.counter.name,
            )
        return self.describe(record)

    def describe(self, record: FileRecord) -> FileObject:
        """The object of ``record``, from what was counted."""
        serving = self.serving()
        details = None
        tokens = record.tokens if self._is_ours(record) else None
        if self.counter is None:
            details = "This server has no tokenizer."
        elif not self._is_ours(record):
            details = f"This document was counted for another model: GET /v1/files/{record.id} counts it for this one."
        elif tokens is None:
            details = f"This document has {record.text_bytes:,} bytes of text, more than are counted at an upload."
        return file_object(record, tokens=tokens, details=details, serving=serving)

    async def recount(self, record: FileRecord) -> FileRecord:
        """``record`` with the tokens of this server's model; nothing is done for one that has them."""
        if self.counter is None or (self._is_ours(record) and record.tokens is not None):
            return record
        tokens = await self._count(record.filename, await self.text(record))
        name = self.counter.name
        await asyncio.to_thread(self.store.set_tokens, record, tokens=tokens, tokenizer=name)
        return replace(record, tokens=tokens, tokenizer=name)

    async def text(self, record: FileRecord) -> str:
        """The text of a stored file. Raises ``ApiError`` 404 where it was deleted this moment."""
        try:
            return await asyncio.to_thread(read_text, self.store.text(record))
        except FileNotFoundError:
            await asyncio.to_thread(self.store.find, record.id, owner=record.owner)
            raise

    async def text_of(self, data: bytes, *, filename: str, content_type: str, owner: str) -> str:
        """The text of a document of ``owner`` that is not stored. Raises ``ApiError``."""
        async with made_in_thread(self.store.scratch) as incoming:
            await asyncio.to_thread(incoming.write, data)
            await asyncio.to_thread(incoming.flush)
            format = await self.reader.read(
                incoming.original, incoming.text, filename=filename, content_type=content_type, owner=owner
            )
            return await asyncio.to_thread(incoming.read_text, format)

    async def _read(self, incoming: Incoming, upload: Upload, owner: str) -> tuple[Format, int | None]:
        """What the upload is and how many tokens it has."""
        format = await self.reader.read(
            incoming.original,
            incoming.text,
            filename=upload.filename,
            content_type=upload.content_type,
            owner=owner,
        )
        return format, await self._count(upload.filename, await asyncio.to_thread(incoming.read_text, format))

    async def _count(self, filename: str, text: str) -> int | None:
        if self.counter is None:
            return None
        return await self.counter.count(prompt_text(filename, text))

    def _is_ours(self, record: FileRecord) -> bool:
        return self.counter is not None and record.tokenizer == self.counter.name


async def _receive(request: Request, form: UploadForm, incoming: Incoming) -> Upload:
    """Write the file in the body to ``incoming``, with about a megabyte in memory."""
    waiting = bytearray()
    try:
        async for chunk in request.stream():
            waiting += form.feed(chunk)
            if len(waiting) >= _WRITTEN_AT_ONCE:
                await asyncio.to_thread(incoming.write, bytes(waiting))
                waiting.clear()
    except ClientDisconnect:
        raise _gone() from None
    upload = form.upload()
    await asyncio.to_thread(incoming.write, bytes(waiting))
    await asyncio.to_thread(incoming.flush)
    return upload


def _gone() -> ApiError:
    """For the log: the client that it would be sent to has left."""
    return ApiError("Expected the client to wait for the answer, found it gone.", status=499, code="client_gone")
