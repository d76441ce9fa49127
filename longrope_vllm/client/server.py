"""An OpenAI-compatible server, through the openai SDK, and what more it can do: keep files, tell progress.

No request is sent twice by itself: a repeated prefill of a long document would only make a slow server slower.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrope_vllm.client.conversation import Message
from longrope_vllm.client.documents import Document
from longrope_vllm.client.events import Event, events_of
from longrope_vllm.client.failures import FailedRequestError, failures
from longrope_vllm.client.patience import CONNECT, SHORT, SILENCE, Patience
from longrope_vllm.errors import ServerError
from longrope_vllm.extras import require

Sent = Callable[[int], None]
"""Told the bytes of an upload as they leave."""

_ABSENT = (404, 405, 501)
_SIGNS = {"/v1/longrope": "tiers", "/props": "default_generation_settings"}
"""Routes of the servers that speak ``return_progress``, ours and llama.cpp's, with a field of what they answer."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file that the server keeps."""

    id: str
    name: str
    tokens: int | None
    """As the server counted them, where it does."""
    longrope: dict[str, Any] | None
    """The tier that a question about it would get, where the server tells."""
    remark: str | None = None
    """Why it was not counted, or cannot be asked about."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the answer is written; None leaves it to the server."""

    max_tokens: int | None = None
    temperature: float | None = None


class Server:
    """A server at ``url``. Every method raises ``FailedRequestError`` when the server cannot be reached or refuses."""

    def __init__(self, url: str, *, api_key: str | None = None, patience: Patience | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ServerError(f"Expected a URL such as http://localhost:8000, found {url!r}.")
        self._openai: Any = require("openai", "ask")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._patience = patience or Patience()
        self._client: Any = self._openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=api_key or "none", max_retries=0, timeout=self._limit(SHORT)
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def model(self, name: str | None) -> str:
        """The model to ask: ``name``, or the only one there; other names of the same checkpoint do not count."""
        try:
            listed = self._get("/v1/models").get("data", [])
        except FailedRequestError as failure:
            if name is None or failure.status not in _ABSENT:
                raise
            return name
        names = [entry["id"] for entry in listed]
        if name is not None and name not in names:
            raise ServerError(f"Expected the model {name!r} at {self.url}, found {', '.join(names)}.")
        roots = {entry.get("root") or entry["id"] for entry in listed}
        if name is None and len(roots) != 1:
            raise ServerError(
                f"Expected one model at {self.url}, found {', '.join(names) or 'none'}: name one with --model."
            )
        return name or str(names[0])

    def keeps_files(self) -> bool:
        """Whether it has the Files API."""
        try:
            self._get("/v1/files?limit=1")
        except FailedRequestError as failure:
            if failure.status in _ABSENT:
                return False
            raise
        return True

    def tells_progress(self) -> bool:
        """Whether it is known to understand ``return_progress``, and so is never silent while it works."""
        return any(self._has(path, field) for path, field in _SIGNS.items())

    def upload(self, document: Document, sent: Sent) -> StoredFile:
        """Store ``document``, read from disk as it leaves."""
        limit = self._patience.for_upload(document.size)
        with self._failures(limit), _Watched(document.path, sent) as file:
            stored = self._client.files.create(
                file=(document.name, file), purpose="user_data", timeout=self._limit(limit)
            )
        return _stored(stored.to_dict())

    def stored(self, file_id: str) -> StoredFile:
        """A file that was uploaded before."""
        return _stored(self._get(f"/v1/files/{file_id}"))

    def delete(self, file_id: str) -> None:
        """Delete a file from the server."""
        with self._failures(SHORT):
            self._client.files.delete(file_id, timeout=self._limit(SHORT))

    @contextmanager
    def answer(
        self, messages: Sequence[Message], *, model: str, sampling: Sampling, tokens: int, progress: bool
    ) -> Iterator[Iterator[Event]]:
        """The answer to ``messages`` as it is written; leaving the block closes the connection.

        ``tokens`` is about how long the prompt is, ``progress`` asks for progress as well.
        """
        limit = self._patience.for_answer(tokens, alive=progress)
        given = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
        with self._failures(limit):
            stream = self._client.chat.completions.create(
                model=model,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"return_progress": True} if progress else None,
                timeout=self._limit(limit),
                **{name: value for name, value in given.items() if value is not None},
            )
        with closing(stream):
            yield self._events(stream, limit)

    def _events(self, stream: Any, limit: float) -> Iterator[Event]:
        with self._failures(limit):
            for chunk in stream:
                yield from events_of(chunk.to_dict())

    def _has(self, path: str, field: str) -> bool:
        """Whether ``path`` is a document with ``field``: some servers answer any path with a page of theirs."""
        try:
            found = self._get(path)
        except FailedRequestError as failure:
            if failure.status is None:
                raise
            return False
        return field in found

    def _get(self, path: str) -> dict[str, Any]:
        with self._failures(SHORT):
            found = self._client.get(f"{self.url}{path}", cast_to=object)
        return found if isinstance(found, dict) else {}

    def _failures(self, limit: float) -> Any:
        return failures(self._openai, url=self.url, limit=limit)

    def _limit(self, read: float) -> Any:
        return self._openai.Timeout(SILENCE, read=read, connect=CONNECT)


class _Watched(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, sent: Sent) -> None:
        super().__init__(path, "rb")
        self._sent = sent

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(-1 if size is None else size) or b""
        self._sent(len(content))
        return content


def _stored(document: dict[str, Any]) -> StoredFile:
    return StoredFile(
        id=document["id"],
        name=document.get("filename") or document["id"],
        tokens=document.get("tokens"),
        longrope=document.get("longrope"),
        remark=document.get("status_details"),
    )
