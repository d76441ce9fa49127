"""File parts in messages: the text of the file takes the place of the part, before vLLM's handler sees the request.

Chat: ``{"type": "file", "file": {"file_id": "file-..."}}`` or ``{"file": {"filename", "file_data"}}``; responses:
``{"type": "input_file", "file_id": "file-..."}`` or ``file_data`` and ``filename``. vLLM's classes let these parts
through as plain dictionaries. The text of a file is the same each time, so that a second question on a file in the
same place finds its keys in the prefix cache.
"""

import asyncio
import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files.amounts import format_size
from longrope_vllm.server.files.form import clean_name
from longrope_vllm.server.files.service import FileService
from longrope_vllm.server.files.text import prompt_text
from longrope_vllm.server.layers import Api, Handler, Layer

_TEXT_TYPES: Mapping[Api, Literal["text", "input_text"]] = {"chat": "text", "responses": "input_text"}


def layer(files: FileService) -> Layer:
    """The layer that replaces file parts by the texts of ``files``; outside of those that count or compare prompts."""

    def replacing(api: Api, handler: Handler) -> Handler:
        if api == "completions":
            return handler

        async def handle(request: Any, http: Request) -> Any:
            await replace_file_parts(api, request, files=files, owner=files.owner(http))
            return await handler(request, http)

        return handle

    return replacing


async def replace_file_parts(api: Api, request: Any, *, files: FileService, owner: str) -> None:
    """Put texts in the places of the file parts of vLLM's ``request``, in place. Raises ``ApiError``."""
    room = _Room(left=files.settings.text_bytes, limit=files.settings.text_bytes)
    for holder, key in _contents(request):
        content = list(holder[key])  # some versions of vLLM leave an iterator here, which can be read once
        for index, part in enumerate(content):
            if not _is_file(api, part):
                continue
            if holder.get("role") == "assistant":
                raise _refusal(
                    "Expected files in messages to the assistant, found one in its own: let the user send it."
                )
            text = await _text(_reference(api, part), files=files, owner=owner, room=room)
            content[index] = {"type": _TEXT_TYPES[api], "text": text}
        holder[key] = content


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """What a file part names: a stored file, or the file itself in base64."""

    file_id: str | None
    file_data: str | None
    filename: str | None


@dataclass(kw_only=True)
class _Room:
    """Bytes of text that one request may still take, or a few parts could name the same file into all memory."""

    left: int
    limit: int

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ApiError(
                f"Expected at most {format_size(self.limit)} of text in the files of one request, found more: ask "
                "about fewer of them.",
                status=400,
                code="documents_too_long",
                limit=self.limit,
            )


def _contents(request: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Where parts stand: messages of chat, messages and outputs of functions of responses."""
    items = getattr(request, "messages", None) or getattr(request, "input", None)
    if items is None or isinstance(items, str):
        return
    for item in items:
        if isinstance(item, dict):
            for key in ("content", "output"):
                if item.get(key) is not None and not isinstance(item[key], str | dict):
                    yield item, key


def _is_file(api: Api, part: Any) -> bool:
    if not isinstance(part, Mapping):
        return False
    if api == "responses":
        return part.get("type") == "input_file"
    return part.get("type") == "file" or ("type" not in part and "file" in part)


def _reference(api: Api, part: Mapping[str, Any]) -> _Reference:
    fields = part if api == "responses" else part.get("file")
    if not isinstance(fields, Mapping):
        raise _refusal("Expected an object in the field file of a file part, found none.")
    if fields.get("file_url") is not None:
        raise _refusal(
            "Expected file_id or file_data in a file part, found file_url: this server fetches nothing, upload the "
            "file to /v1/files.",
            code="file_url_not_supported",
        )
    found = {name: fields.get(name) for name in ("file_id", "file_data", "filename")}
    if not all(isinstance(value, str | None) for value in found.values()):
        raise _refusal("Expected strings in a file part, found something else.")
    if (found["file_id"] is None) == (found["file_data"] is None):
        raise _refusal("Expected either file_id or file_data in a file part, found both or none.")
    return _Reference(**found)


async def _text(reference: _Reference, *, files: FileService, owner: str, room: _Room) -> str:
    if reference.file_id is not None:
        record = await asyncio.to_thread(files.store.find, reference.file_id, owner=owner)
        room.take(record.text_bytes)
        return prompt_text(record.filename, await files.text(record))
    assert reference.file_data is not None
    content_type, data = await asyncio.to_thread(_decoded, reference.file_data)
    filename = clean_name(reference.filename or "")
    text = await files.text_of(data, filename=filename, content_type=content_type, owner=owner)
    room.take(len(text))
    return prompt_text(filename, text)


def _decoded(file_data: str) -> tuple[str, bytes]:
    """Content type and bytes of ``data:TYPE;base64,DATA`` or of bare base64."""
    content_type = ""
    if file_data.startswith("data:"):
        head, comma, file_data = file_data.partition(",")
        content_type, *options = head.removeprefix("data:").split(";")
        if not comma or "base64" not in options:
            raise _refusal("Expected file_data as data:TYPE;base64,DATA, found a data URL of another form.")
    try:
        return content_type, base64.b64decode(file_data, validate=True)
    except binascii.Error as error:
        raise _refusal(f"Expected file_data in base64, found: {error}.") from None


def _refusal(message: str, *, code: str = "invalid_file_part") -> ApiError:
    return ApiError(message, status=400, code=code)
