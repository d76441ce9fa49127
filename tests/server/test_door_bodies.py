"""Bodies, headers and JSON at the door, over a small app: what streams in is counted, timed, and not kept."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI, Request
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_vllm.server.doors import bodies
from longrope_vllm.server.doors.bodies import Bodies
from longrope_vllm.server.doors.doors import Doors
from longrope_vllm.server.doors.nesting import Nesting
from longrope_vllm.server.doors.settings import ATTRIBUTE, DoorSettings

SETTINGS = DoorSettings(body_bytes=1_000, upload_bytes=2_000_000, body_s=0.2, body_pace=10_000, json_depth=5)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes on sending here."""
    monkeypatch.setattr(bodies, "LINGER", 0.05)


@dataclass
class Sent:
    """What came back over ASGI."""

    messages: list[Any] = field(default_factory=list)

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def error(self) -> Any:
        return json.loads(b"".join(message.get("body", b"") for message in self.messages[1:]))["error"]


@dataclass
class Seen:
    """What the app behind read of the body."""

    chunks: list[bytes] = field(default_factory=list)
    ended: bool = False


def app_that_reads(seen: Seen) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not seen.ended:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            seen.chunks.append(message["body"])
            seen.ended = not message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return app


def scope_of(path: str = "/v1/completions", method: str = "POST", **headers: str) -> dict[str, Any]:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": named,
    }


def messages(chunks: Sequence[bytes], *, pause: float = 0.0, stuck: bool = False) -> Any:
    """An ASGI ``receive`` that gives ``chunks`` and then waits for ever; ``stuck``: the end of the body never comes."""
    left = list(chunks)

    async def receive() -> Any:
        await asyncio.sleep(pause if left else 3600)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or stuck}

    return receive


def ask(app: Any, scope: dict[str, Any], receive: Any) -> Sent:
    sent = Sent()
    asyncio.run(app(scope, receive, sent))
    return sent


def test_a_body_within_the_limits_goes_through_chunk_by_chunk() -> None:
    seen, chunks = Seen(), [b'{"a": "', b"x" * 500, b'"}']
    sent = ask(Bodies(app_that_reads(seen), SETTINGS), scope_of(), messages(chunks))
    assert (sent.status, seen.chunks) == (200, chunks)


def test_streamed_bytes_are_counted_whatever_was_announced() -> None:
    seen = Seen()
    sent = ask(Bodies(app_that_reads(seen), SETTINGS), scope_of(content_length="3"), messages([b"1" * 600] * 3))
    assert (sent.status, sent.error["code"], sent.error["limit"]) == (413, "body_too_large", 1_000)
    assert (len(seen.chunks), seen.ended) == (1, False)
    assert (b"connection", b"close") in sent.messages[0]["headers"]
    assert len([message for message in sent.messages if message["type"] == "http.response.start"]) == 1


def test_an_announced_length_is_refused_before_anything_is_read() -> None:
    seen = Seen()
    sent = ask(Bodies(app_that_reads(seen), SETTINGS), scope_of(content_length="1001"), messages([b"1" * 1001]))
    assert (sent.status, seen.chunks) == (413, [])


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/v1/files", "multipart/form-data; boundary=x", 200),
        ("/v1/files", "application/json", 413),
        ("/v1/audio/transcriptions", "multipart/form-data; boundary=x", 413),
    ],
)
def test_only_an_upload_of_a_document_may_be_larger(path: str, kind: str, status: int) -> None:
    sent = ask(Bodies(app_that_reads(Seen()), SETTINGS), scope_of(path, content_type=kind), messages([b"\0" * 5_000]))
    assert sent.status == status


@pytest.mark.parametrize("chunks", [[], [b"{"], [b"{"] * 3])
def test_a_body_that_stops_is_answered(chunks: list[bytes]) -> None:
    seen = Seen()
    sent = ask(Bodies(app_that_reads(seen), SETTINGS), scope_of(), messages(chunks, stuck=True))
    assert (sent.status, sent.error["code"], seen.ended) == (408, "body_too_slow", False)


def test_a_body_that_trickles_is_answered_though_it_never_stops() -> None:
    sent = ask(Bodies(app_that_reads(Seen()), SETTINGS), scope_of(), messages([b"1"] * 200, pause=0.01))
    assert sent.status == 408


def test_a_slow_body_that_keeps_the_pace_goes_through() -> None:
    slow = DoorSettings(body_s=0.2, body_pace=1_000)
    seen = Seen()  # 0.6 s in all, three times the silence that is allowed
    sent = ask(Bodies(app_that_reads(seen), slow), scope_of(), messages([b"1" * 100] * 12, pause=0.05))
    assert (sent.status, seen.ended) == (200, True)


def test_what_the_server_does_between_two_chunks_is_not_the_clients_silence() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            await asyncio.sleep(0.15)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert ask(Bodies(app, SETTINGS), scope_of(), messages([b"1"] * 4)).status == 200


def test_waiting_for_a_client_to_leave_has_no_deadline() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.5)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert ask(Bodies(app, SETTINGS), scope_of(), messages([b"{}"])).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 5 + b"]" * 5, 200),
        (b"[" * 6, 400),
        (b'{"a":' * 6, 400),
        (b'["' + b"[" * 50 + b'"]', 200),
        (b'["\\"' + b"[" * 50 + b'"]', 200),
        (b'["\\\\"' + b"," + b"[" * 6, 400),
        ("[[[[[[".encode("utf-16"), 400),
    ],
)
def test_json_is_measured_as_it_streams(body: bytes, status: int) -> None:
    for size in (1, 2, 1_000):
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        assert ask(Bodies(app_that_reads(Seen()), SETTINGS), scope_of(), messages(chunks)).status == status


JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(alphabet='ab"\\[]{}é\n', max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(alphabet='a"\\[{', max_size=4), inner, max_size=4)
    ),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    """Levels, by walking the parsed value."""
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


@settings(max_examples=200, deadline=None)
@given(JSON, st.booleans(), st.integers(1, 9))
def test_the_nesting_is_that_of_the_parsed_value(value: Any, ascii: bool, size: int) -> None:
    data = json.dumps(value, ensure_ascii=ascii).encode()
    nesting = Nesting()
    for start in range(0, len(data), size):
        nesting.feed(data[start : start + size])
    assert nesting.deepest == depth_of(value)


def guarded(app: FastAPI, **settings: Any) -> FastAPI:
    app.state.args = type("Arguments", (), {ATTRIBUTE: DoorSettings(**settings)})()
    app.add_middleware(Doors)
    return app


def reading_app() -> FastAPI:
    app = FastAPI()

    @app.post("/v1/completions")
    async def read(request: Request) -> int:
        return len(await request.body())

    return app


def test_fastapi_behind_the_door_does_not_answer_a_second_time() -> None:
    app = guarded(reading_app(), body_bytes=1_000, body_s=0.2)
    for chunks, status in ([[b"1" * 600] * 2, 413], [[b"1"], 408]):
        sent = ask(app, scope_of(), messages(chunks, stuck=True))
        assert sent.status == status
        assert len([message for message in sent.messages if message["type"] == "http.response.start"]) == 1


def test_headers_are_capped_together_with_the_address() -> None:
    app = guarded(reading_app(), header_bytes=1_000)
    assert ask(app, scope_of(), messages([b"{}"])).status == 200
    assert ask(app, scope_of(x="a" * 900), messages([b"{}"])).status == 200
    assert ask(app, scope_of(x="a" * 500, y="b" * 500), messages([b"{}"])).status == 431
    assert ask(app, scope_of("/" + "a" * 1_000), messages([b"{}"])).error["code"] == "headers_too_large"
