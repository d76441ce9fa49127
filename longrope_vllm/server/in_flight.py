"""Requests in flight: counted, kept out, or ended with an error when nobody is going to answer them any more.

Middleware around the whole app. What it ends looks to a handler as if its client had left, the way by which vLLM frees
a request in each of its phases, and the client is told why: HTTP 503, or in a stream that has begun an error event.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.asgi import App, Message, Receive, Scope, Send

PROBES = ("/health", "/metrics", "/ping", "/load", "/version")
"""Paths that are answered at all times and counted at none."""

READING = ("GET", "HEAD", "OPTIONS", "DELETE")
"""Methods that start no work: a server that drains still tells how far a request is, and lets clients tidy up."""

_LEAVE = 2.0
"""Seconds in which a handler whose client is said to have left should end by itself."""

_DISCONNECT = {"type": "http.disconnect"}


class InFlight:
    """The requests of one app that have begun, from their headers on, and whose response is not complete."""

    def __init__(self) -> None:
        self._open: set[_Exchange] = set()
        self._refusal: ApiError | None = None
        self._refused: Callable[[str], bool] = lambda method: False

    def __len__(self) -> int:
        return len(self._open)

    def refuse(self, error: ApiError) -> None:
        """Answer ``error`` to every new request that would start work; those in flight go on."""
        self._refusal, self._refused = error, lambda method: method not in READING

    def end(self, error: ApiError) -> None:
        """Answer ``error`` to every new request and to all in flight, but those whose answer is on its way already."""
        self._refusal, self._refused = error, lambda method: True
        for exchange in self._open:
            exchange.end(error)

    async def serve(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request by ``app``."""
        if self._refusal is not None and self._refused(scope["method"]):
            await _answer(self._refusal)(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        self._open.add(exchange)
        try:
            await exchange.serve(app)
        finally:
            self._open.discard(exchange)


class TrackInFlight:
    """ASGI middleware that keeps the requests of its app in ``in_flight``."""

    def __init__(self, app: App, *, in_flight: InFlight) -> None:
        self._app, self._in_flight = app, in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or _path(scope).startswith(PROBES):
            await self._app(scope, receive, send)
            return
        await self._in_flight.serve(self._app, scope, receive, send)


class _Exchange:
    """One request and its response, as far as they have come."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._error: asyncio.Future[ApiError] = asyncio.get_running_loop().create_future()
        self._started = self._streams = self._complete = False

    def end(self, error: ApiError) -> None:
        """End it by ``error``, unless it is beyond that: a body that has begun and is no stream of events goes on."""
        beyond = self._complete or (self._started and not self._streams)
        if not beyond and not self._error.done():
            self._error.set_result(error)

    async def serve(self, app: App) -> None:
        answering = asyncio.ensure_future(app(self._scope, self.receive, self.send))
        try:
            await _first(answering, self._error)
            if answering.done():
                answering.result()
                return
            await self._fail(self._error.result())
            await asyncio.wait({answering}, timeout=_LEAVE)
        finally:
            answering.add_done_callback(_seen)
            answering.cancel()

    async def receive(self) -> Message:
        """What comes from the client; that it has left once the request is ended."""
        receiving = asyncio.ensure_future(self._receive())
        try:
            await _first(receiving, self._error)
            return _DISCONNECT if self._error.done() else receiving.result()
        finally:
            receiving.cancel()

    async def send(self, message: Message) -> None:
        """Pass ``message`` on to the client; nothing once the request is ended."""
        if self._error.done():
            return
        if message["type"] == "http.response.start":
            self._started, self._streams = True, _is_stream(message)
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
        await self._send(message)

    async def _fail(self, error: ApiError) -> None:
        if not self._started:
            await _answer(error)(self._scope, self._receive, self._send)
        else:
            body = _event(_path(self._scope), error)
            await self._send({"type": "http.response.body", "body": body, "more_body": False})


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _answer(error: ApiError) -> JSONResponse:
    headers = {**(error.headers or {}), "Connection": "close"}  # the next request goes where somebody answers it
    return JSONResponse({"error": error.body}, status_code=error.status, headers=headers)


def _event(path: str, error: ApiError) -> bytes:
    """``error`` as the last event of a stream, in the form of the API that ``path`` belongs to."""
    if path.startswith("/v1/responses"):
        event = {"type": "error", **{name: error.body[name] for name in ("code", "message", "param")}}
        return f"event: error\ndata: {json.dumps({**event, 'error': error.body})}\n\n".encode()
    return f"data: {json.dumps({'error': error.body})}\n\ndata: [DONE]\n\n".encode()


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _is_stream(start: Message) -> bool:
    headers = {bytes(name).lower(): bytes(value) for name, value in start.get("headers", ())}
    return headers.get(b"content-type", b"").startswith(b"text/event-stream")


def _seen(task: asyncio.Task[Any]) -> None:
    """An error of a handler whose client has its answer is none that asyncio should complain about."""
    if not task.cancelled():
        task.exception()
