"""The body of an upload, ``multipart/form-data``, parsed as it comes: the file's bytes go through, fields are kept."""

import re
from dataclasses import dataclass
from typing import get_args

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files.records import Purpose

_MAX_FIELD_BYTES = 4096
_MAX_PARTS = 64
_MAX_NAME = 255

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What an upload says about its file."""

    filename: str
    """Without folders or control characters."""
    content_type: str
    purpose: Purpose
    expires_s: int | None
    """Seconds from its creation on; None: the client asked for nothing."""


class UploadForm:
    """Feed it the body in chunks of any size, then ask for the ``upload``."""

    def __init__(self, content_type: str | None) -> None:
        """``content_type`` is the header of the request. Raises ``ApiError`` unless it is a form's."""
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise _refusal(f"Expected a body of multipart/form-data with a boundary, found {content_type or 'none'}.")
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._field = ""
        self._in_file = False
        self._data: list[bytes] = []
        self._parts = 0
        self._fields: dict[str, bytearray] = {}
        self._file: tuple[str, str] | None = None
        self._ended = False
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_name,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_data,
                    "on_part_data": self._add_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _refusal(f"Expected a form with a shorter boundary, found: {error}.") from None

    def feed(self, chunk: bytes) -> bytes:
        """What ``chunk`` holds of the file. Raises ``ApiError`` for a body that is no such form."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _refusal(f"Expected a well-formed multipart body, found: {error}.") from None
        data = b"".join(self._data)
        self._data.clear()
        return data

    def upload(self) -> Upload:
        """After the last chunk. Raises ``ApiError`` for a body that was cut off, or lacks a field."""
        if not self._ended:
            raise _refusal("Expected a whole multipart body, found one that was cut off: send it again.")
        if self._file is None:
            raise _refusal("Expected the field file, with a file name, found none: curl -F file=@PATH.", param="file")
        fields = {name: value.decode(errors="replace").strip() for name, value in self._fields.items()}
        filename, content_type = self._file
        return Upload(
            filename=filename, content_type=content_type, purpose=_purpose(fields), expires_s=_expires_s(fields)
        )

    # -- what the parser calls

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _refusal(f"Expected at most {_MAX_PARTS} parts in the form, found more.")
        self._headers.clear()

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._field = options.get(b"name", b"").decode(errors="replace")
        self._in_file = self._field == "file" and b"filename" in options
        if self._in_file:
            if self._file is not None:
                raise _refusal(
                    "Expected one file, found a second one: send each in a request of its own.", param="file"
                )
            kind, _ = parse_options_header(self._headers.get(b"content-type"))
            self._file = _clean(options[b"filename"]), kind.decode(errors="replace") or "application/octet-stream"
        elif self._field in self._fields:
            raise _refusal(f"Expected each field once, found {self._field} twice.", param=self._field)
        else:
            self._fields[self._field] = bytearray()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._data.append(data[start:end])
            return
        value = self._fields[self._field]
        value += data[start:end]
        if len(value) > _MAX_FIELD_BYTES:
            raise _refusal(
                f"Expected at most {_MAX_FIELD_BYTES} bytes in the field {self._field}, found more: a file needs a "
                "file name, as in curl -F file=@PATH."
            )

    def _end(self) -> None:
        self._ended = True


def clean_name(name: str) -> str:
    """``name`` on one line, without folders: it stands in prompts and in headers."""
    bare = re.split(r"[/\\]", name)[-1]
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in bare).split())
    return line[:_MAX_NAME] or "document"


def _clean(name: bytes) -> str:
    try:
        return clean_name(name.decode())
    except UnicodeDecodeError:
        raise _refusal("Expected a file name in UTF-8, found other bytes: rename the file.", param="file") from None


def _purpose(fields: dict[str, str]) -> Purpose:
    asked = fields.get("purpose")
    for purpose in PURPOSES:
        if asked == purpose:
            return purpose
    found = "none" if asked is None else repr(asked)
    raise _refusal(
        f"Expected the field purpose to be user_data or assistants, for documents in messages, found {found}: this "
        "server has no other use for files.",
        param="purpose",
    )


def _expires_s(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise _refusal(
            f"Expected expires_after[anchor] to be created_at, found {anchor!r}.", param="expires_after[anchor]"
        )
    if seconds is None or not re.fullmatch(r"0*[1-9]\d{0,9}", seconds, re.ASCII):
        raise _refusal(
            f"Expected expires_after[seconds] to be a number of seconds, found {seconds!r}.",
            param="expires_after[seconds]",
        )
    return int(seconds)


def _refusal(message: str, *, param: str | None = None) -> ApiError:
    return ApiError(message, status=400, code="invalid_upload", param=param)
