"""Bodies as they stream: how large, how slow, how deeply nested. Nothing of them is kept.

Pure ASGI. A body that breaks a limit is answered at once; the handler behind sees a client that has gone.
"""

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.asgi import App, Message, Receive, Scope, Send
from longrope_vllm.server.doors.access import FILES, path_of
from longrope_vllm.server.doors.answer import header, refuse
from longrope_vllm.server.doors.nesting import Nesting
from longrope_vllm.server.doors.settings import DoorSettings

_FORM_BYTES = 1_000_000
"""What the form around an uploaded file may take; the file itself is counted by ``server/files``."""
LINGER = 2.0
"""Seconds for which what is still sent is thrown away: clients that send before they read would see a broken pipe."""
_CLOSE = {"connection": "close"}
_GONE: Message = {"type": "http.disconnect"}


class Bodies:
    """ASGI middleware that holds request bodies to ``settings``."""

    def __init__(self, app: App, settings: DoorSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rules = _rules(scope, self._settings)
        body = _Body(rules, scope, receive, send)
        announced = header(scope, b"content-length") or ""
        if announced.isdecimal() and int(announced[:20]) > rules.most:
            await body.refuse(too_large(rules.most))
            return
        try:
            await self._app(scope, body.receive, body.send)
        except ClientDisconnect:
            if not body.refused:
                raise


@dataclass(frozen=True, kw_only=True)
class _Rules:
    most: int
    silence: float
    pace: int
    depth: int | None
    """None for what is not JSON."""


def _rules(scope: Scope, settings: DoorSettings) -> _Rules:
    is_form = (header(scope, b"content-type") or "").lower().startswith("multipart/form-data")
    is_upload = is_form and path_of(scope) == FILES
    return _Rules(
        most=settings.upload_bytes + _FORM_BYTES if is_upload else settings.body_bytes,
        silence=settings.body_s,
        pace=settings.body_pace,
        depth=None if is_form else settings.json_depth,
    )


class _Body:
    """One request's body on its way in, and its answer on its way out."""

    def __init__(self, rules: _Rules, scope: Scope, receive: Receive, send: Send) -> None:
        self.refused = False
        self._rules, self._scope, self._receive, self._send = rules, scope, receive, send
        self._answering = self._ended = False
        self._bytes = 0
        self._waited = 0.0
        self._nesting = Nesting()

    async def receive(self) -> Message:
        """The next message; after a refusal, and for whoever waits for it afterwards: the client has gone."""
        if self.refused:
            return _GONE
        if self._ended:
            return await self._receive()
        try:
            message = await self._next()
            if message["type"] == "http.request":
                self._look_at(message.get("body", b""))
                self._ended = not message.get("more_body", False)
        except ApiError as error:
            await self.refuse(error)
            return _GONE
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the handler sends, unless the refusal was sent in its place."""
        if not self.refused:
            self._answering = True
            await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer ``error``, unless an answer has begun: then the connection is all that can end."""
        self.refused = True
        if self._answering:
            return
        error.headers = {**(error.headers or {}), **_CLOSE}
        await refuse(error, self._scope, self._receive, self._send if error.status == 408 else self._lingering)

    async def _next(self) -> Message:
        """The next message in time. Raises ``ApiError`` 408. Only waiting counts, not what the server does."""
        rules, loop = self._rules, asyncio.get_running_loop()
        left = rules.silence + self._bytes / rules.pace - self._waited
        begun = loop.time()
        try:
            async with asyncio.timeout(min(rules.silence, left) if left != float("inf") else None):
                return await self._receive()
        except TimeoutError:
            raise ApiError(
                f"Expected the rest of the body within {rules.silence:g} s, and {rules.pace} bytes a second on the "
                f"whole, found {self._bytes} bytes so far: send it faster, or upload the document to {FILES}.",
                status=408,
                code="body_too_slow",
            ) from None
        finally:
            self._waited += loop.time() - begun

    def _look_at(self, chunk: bytes) -> None:
        rules = self._rules
        self._bytes += len(chunk)
        if self._bytes > rules.most:
            raise too_large(rules.most)
        if rules.depth is None:
            return
        if b"\0" in chunk:  # only in UTF-16 and UTF-32, which Python's parser would take and the scan misread
            raise ApiError("Expected JSON in UTF-8, found a zero byte.", status=400, code="invalid_json")
        self._nesting.feed(chunk)
        if self._nesting.deepest > rules.depth:
            raise ApiError(
                f"Expected JSON of at most {rules.depth} levels, found more: nest less deeply.",
                status=400,
                code="json_too_deep",
                limit=rules.depth,
            )

    async def _lingering(self, message: Message) -> None:
        """Send; before the end, take and drop what the client still sends, for a while."""
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not last:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        try:
            async with asyncio.timeout(LINGER):
                while not self._ended:
                    dropped = await self._receive()
                    self._ended = dropped["type"] != "http.request" or not dropped.get("more_body", False)
        except TimeoutError:
            pass
        await self._send({"type": "http.response.body", "body": b""})


def too_large(limit: int) -> ApiError:
    """The refusal of a body of more than ``limit`` bytes."""
    return ApiError(
        f"Expected a body of at most {limit} bytes, found more: upload the document to {FILES}, or start the server "
        "with a larger --max-body-size.",
        status=413,
        code="body_too_large",
        limit=limit,
    )
