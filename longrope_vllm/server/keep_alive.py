"""Comments in silent streams, so that no proxy and no client takes a long prefill for a dead connection.

vLLM keeps the streams of chat and completions alive itself (``--sse-keep-alive-interval``). This middleware does the
same, at the same interval, for every other stream of the server: responses, and whatever a plugin adds.
"""

import asyncio

from longrope_vllm.server.asgi import App, Message, Receive, Scope, Send

COMMENT = b": keep-alive\n\n"
"""A server-sent comment: clients ignore it."""

KEPT_BY_VLLM = ("/v1/chat/completions", "/v1/completions")


class KeepAlive:
    """ASGI middleware; the interval in seconds is that of the server's arguments, 0 for none."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        interval = _interval(scope)
        if not interval:
            await self._app(scope, receive, send)
            return
        stream = _KeptAlive(send, interval)
        try:
            await self._app(scope, receive, stream.send)
        finally:
            stream.end()


def _interval(scope: Scope) -> float:
    if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) in KEPT_BY_VLLM:
        return 0.0
    arguments = getattr(scope["app"].state, "args", None)
    return float(getattr(arguments, "sse_keep_alive_interval", 0))


class _KeptAlive:
    """What a response sends, with a comment whenever nothing was sent for ``interval`` seconds, if it is a stream."""

    def __init__(self, send: Send, interval: float) -> None:
        self._send, self._interval = send, interval
        self._sending = asyncio.Lock()
        self._sent = 0.0
        self._task: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.end()
        async with self._sending:
            await self._send(message)
        self._sent = asyncio.get_running_loop().time()
        if message["type"] == "http.response.start" and _is_stream(message):
            self._task = asyncio.create_task(self._comment())

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _comment(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            silent = loop.time() - self._sent
            if silent < self._interval:
                await asyncio.sleep(self._interval - silent)
                continue
            async with self._sending:
                await self._send({"type": "http.response.body", "body": COMMENT, "more_body": True})
            self._sent = loop.time()


def _is_stream(start: Message) -> bool:
    headers = {name.lower(): value for name, value in start.get("headers", ())}
    return bytes(headers.get(b"content-type", b"")).startswith(b"text/event-stream")
