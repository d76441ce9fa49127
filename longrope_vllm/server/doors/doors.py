"""The middleware around vLLM's app, outside of every other one.

In this order, each before the next one does any work: the headers' size, the key, the requests of that key, the body as
it streams. On the way out: when to come back, where the server was full. ``longrope serve`` names the class in vLLM's
``--middleware``; it is built with the first message that comes, when the app knows its arguments.
"""

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.asgi import App, Message, Receive, Scope, Send
from longrope_vllm.server.doors.account import retry_after
from longrope_vllm.server.doors.answer import refuse
from longrope_vllm.server.doors.bodies import Bodies
from longrope_vllm.server.doors.guard import Guard
from longrope_vllm.server.doors.keyring import Keyring
from longrope_vllm.server.doors.queue_estimate import QueueEstimate
from longrope_vllm.server.doors.settings import DoorSettings, door_settings

_BUSY = (429, 503)
QUEUE_HEADER = "x-longrope-queued-tokens"
"""Prompt tokens before this request, in an answer that says that the server is full."""


class Doors:
    """ASGI middleware around vLLM's app."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._guarded: App | None = None
        self._header_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. Raises for every one of them when the keys cannot be read: shut, not open."""
        if self._guarded is None:
            settings = door_settings(scope["app"].state.args)
            self._header_bytes = settings.header_bytes
            self._guarded = _guarded(self._app, settings)
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif _header_bytes(scope) > self._header_bytes:
            await refuse(_headers_too_large(self._header_bytes), scope, receive, send)
        else:
            await self._guarded(scope, receive, send)


def _guarded(app: App, settings: DoorSettings) -> App:
    keyring = Keyring(settings.keys, settings.api_keys)
    return Guard(Bodies(RetryAfter(app), settings), keyring, settings.metrics)


class RetryAfter:
    """ASGI middleware: a 429 or 503 that does not say when to come back gets the estimate of the queue."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        queue: QueueEstimate | None = getattr(scope["app"].state, "longrope_queue", None)

        async def telling(message: Message) -> None:
            if queue is not None and message["type"] == "http.response.start" and message["status"] in _BUSY:
                message = _with_estimate(message, queue)
            await send(message)

        await self._app(scope, receive, telling)


def _with_estimate(message: Message, queue: QueueEstimate) -> Message:
    headers = list(message.get("headers", ()))
    if any(name.lower() == b"retry-after" for name, _ in headers):
        return message
    told = {**retry_after(queue.seconds()), QUEUE_HEADER: str(queue.queued_tokens())}
    return {**message, "headers": [*headers, *((name.encode(), value.encode()) for name, value in told.items())]}


def _header_bytes(scope: Scope) -> int:
    address = len(scope.get("raw_path") or scope["path"]) + len(scope.get("query_string") or b"")
    return address + sum(len(name) + len(value) for name, value in scope["headers"])


def _headers_too_large(limit: int) -> ApiError:
    return ApiError(
        f"Expected headers and address of at most {limit} bytes together, found more: send less of them.",
        status=431,
        code="headers_too_large",
        headers={"connection": "close"},
        limit=limit,
    )
