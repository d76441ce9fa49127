"""Requests in flight, over plain ASGI: what is refused, what is told to whom when all of them are ended."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with vLLM")

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.in_flight import InFlight, TrackInFlight

Message = MutableMapping[str, Any]
GONE = ApiError("Expected an engine, found none.", status=503, code="engine_dead", headers={"Retry-After": "7"})


@dataclass
class Client:
    """One request, and what has come back."""

    method: str = "POST"
    path: str = "/v1/completions"
    body: bytes = b"{}"
    whole: bool = True
    """False for a body whose rest never comes."""
    got: list[Message] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._received = False

    async def receive(self) -> Message:
        if self._received:
            await asyncio.Event().wait()
        self._received = True
        return {"type": "http.request", "body": self.body, "more_body": not self.whole}

    async def send(self, message: Message) -> None:
        self.got.append(message)
        self.begun.set()

    async def ask(self, app: Any) -> None:
        scope = {"type": "http", "method": self.method, "path": self.path, "headers": [], "query_string": b""}
        await app({**scope, "asgi": {"spec_version": "2.3"}}, self.receive, self.send)

    @property
    def status(self) -> int:
        status: int = self.got[0]["status"]
        return status

    @property
    def text(self) -> str:
        assert not self.got[-1].get("more_body", False)
        return b"".join(message["body"] for message in self.got[1:]).decode()

    def header(self, name: bytes) -> str | None:
        found: dict[bytes, bytes] = dict(self.got[0]["headers"])
        return found[name].decode() if name in found else None


@dataclass
class Site:
    """An app whose answers wait; it notes which handlers were cancelled."""

    in_flight: InFlight = field(default_factory=InFlight)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    left: list[str] = field(default_factory=list)

    @property
    def app(self) -> Any:
        return TrackInFlight(self._handle, in_flight=self.in_flight)

    async def _handle(self, scope: Message, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        response = await self._response(request)
        await response(scope, receive, send)

    async def _response(self, request: Request) -> Response:
        path = request.url.path
        if path.endswith("/stream") or path == "/v1/responses":
            return StreamingResponse(self._events(path), media_type="text/event-stream")
        if path == "/v1/files/1/content":
            return StreamingResponse(self._parts(), media_type="text/plain")
        if request.method == "POST":
            await request.body()
            waiting = [asyncio.create_task(coroutine) for coroutine in (self.release.wait(), request.receive())]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting[1].done():
                self.left.append(path)
            for task in waiting:
                task.cancel()
        return JSONResponse({"answer": path})

    async def _events(self, path: str) -> AsyncIterator[bytes]:
        try:
            yield b"data: {}\n\n"
            await self.release.wait()
            yield b"data: [DONE]\n\n"
        finally:
            if not self.release.is_set():
                self.left.append(path)

    async def _parts(self) -> AsyncIterator[bytes]:
        yield b"first "
        await self.release.wait()
        yield b"second"


def run(test: Callable[[Site], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(10):
            await test(Site())

    asyncio.run(within())


async def in_flight(site: Site, clients: list[Client]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(client.ask(site.app)) for client in clients]
    while len(site.in_flight) < len(clients):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    return tasks


def test_what_waits_for_its_answer_is_told_the_error_and_its_handler_that_the_client_left() -> None:
    async def check(site: Site) -> None:
        client = Client()
        (task,) = await in_flight(site, [client])
        site.in_flight.end(GONE)
        await task
        assert (client.status, json.loads(client.text)) == (503, {"error": GONE.body})
        assert (client.header(b"retry-after"), client.header(b"connection")) == ("7", "close")
        assert (site.left, len(site.in_flight)) == (["/v1/completions"], 0)

    run(check)


@pytest.mark.parametrize(
    ("path", "last"),
    [
        ("/v1/chat/stream", f"data: {json.dumps({'error': GONE.body})}\n\ndata: [DONE]\n\n"),
        ("/v1/responses", "event: error\ndata: "),
    ],
)
def test_a_stream_that_has_begun_ends_with_an_error_event(path: str, last: str) -> None:
    async def check(site: Site) -> None:
        client = Client(path=path)
        (task,) = await in_flight(site, [client])
        await client.begun.wait()
        site.in_flight.end(GONE)
        await task
        assert client.status == 200
        first, _, rest = client.text.partition("\n\n")
        assert first == "data: {}"
        assert rest.startswith(last)
        assert site.left == [path]

    run(check)


def test_the_error_of_a_stream_of_responses_is_one_that_its_clients_know() -> None:
    async def check(site: Site) -> None:
        client = Client(path="/v1/responses")
        (task,) = await in_flight(site, [client])
        site.in_flight.end(GONE)
        await task
        event = json.loads(client.text.rpartition("data: ")[2])
        assert event == {
            "type": "error",
            "code": "engine_dead",
            "message": str(GONE),
            "param": None,
            "error": GONE.body,
        }

    run(check)


def test_an_answer_that_is_on_its_way_goes_on() -> None:
    async def check(site: Site) -> None:
        client = Client(method="GET", path="/v1/files/1/content")
        (task,) = await in_flight(site, [client])
        await client.begun.wait()
        site.in_flight.end(GONE)
        site.release.set()
        await task
        assert client.text == "first second"

    run(check)


def test_half_an_upload_is_in_flight_and_can_be_ended() -> None:
    async def check(site: Site) -> None:
        client = Client(whole=False)
        (task,) = await in_flight(site, [client])
        site.in_flight.end(GONE)
        await task
        assert client.status == 503
        assert len(site.in_flight) == 0

    run(check)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/completions", 503),
        ("GET", "/v1/models", 200),
        ("DELETE", "/v1/files/1", 200),
        ("GET", "/health", 200),
    ],
)
def test_a_draining_server_refuses_work_and_still_tells_and_tidies(method: str, path: str, status: int) -> None:
    async def check(site: Site) -> None:
        site.release.set()
        site.in_flight.refuse(GONE)
        client = Client(method=method, path=path)
        await client.ask(site.app)
        assert client.status == status

    run(check)


def test_what_runs_when_a_drain_begins_is_answered() -> None:
    async def check(site: Site) -> None:
        client = Client()
        (task,) = await in_flight(site, [client])
        site.in_flight.refuse(GONE)
        site.release.set()
        await task
        assert client.status == 200

    run(check)


def test_after_the_end_nothing_is_served_but_probes() -> None:
    async def check(site: Site) -> None:
        site.in_flight.end(GONE)
        reader, probe = Client(method="GET", path="/v1/models"), Client(method="GET", path="/health")
        await reader.ask(site.app)
        await probe.ask(site.app)
        assert (reader.status, probe.status) == (503, 200)

    run(check)


def test_the_error_of_a_handler_is_its_own() -> None:
    async def broken(scope: Message, receive: Any, send: Any) -> None:
        raise KeyError("broken")

    async def check(site: Site) -> None:
        with pytest.raises(KeyError):
            await Client().ask(TrackInFlight(broken, in_flight=site.in_flight))
        assert len(site.in_flight) == 0

    run(check)


def test_other_connections_are_passed_on() -> None:
    async def check(site: Site) -> None:
        kinds = []

        async def app(scope: Message, receive: Any, send: Any) -> None:
            kinds.append(scope["type"])

        await TrackInFlight(app, in_flight=site.in_flight)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
        assert kinds == ["lifespan"]

    run(check)


def test_a_probe_is_not_counted() -> None:
    async def check(site: Site) -> None:
        counts = []

        async def app(scope: Message, receive: Any, send: Any) -> None:
            counts.append(len(site.in_flight))
            await PlainTextResponse("")(scope, receive, send)

        tracked = TrackInFlight(app, in_flight=site.in_flight)
        await Client(method="GET", path="/health/progress").ask(tracked)
        await Client(method="GET", path="/v1/models").ask(tracked)
        assert counts == [0, 1]

    run(check)
