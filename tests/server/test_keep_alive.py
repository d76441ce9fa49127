"""Comments in silent streams: when they are sent, where, and that nothing else changes."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with vLLM")

from longrope_vllm.server.keep_alive import COMMENT, KEPT_BY_VLLM, KeepAlive

INTERVAL = 0.01


def start(kind: bytes) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", kind)]}


def part(text: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text, "more_body": more}


def sent(
    kind: bytes = b"text/event-stream; charset=utf-8",
    *,
    path: str = "/v1/responses",
    interval: float = INTERVAL,
    silent: bool = True,
    fails: bool = False,
) -> list[bytes]:
    """The bodies sent by an app that says nothing between two events until it was commented twice, if it is."""
    messages: list[dict[str, Any]] = []
    commented = asyncio.Event()

    async def send(message: Any) -> None:
        messages.append(message)
        if [one.get("body") for one in messages].count(COMMENT) >= 2:
            commented.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(kind))
        await send(part(b"data: 1\n\n"))
        if silent:
            await commented.wait()
        else:
            await asyncio.sleep(5 * INTERVAL)  # long enough for the comments that must not come
        if fails:
            raise ValueError("broken")
        await send(part(b"data: 2\n\n"))
        await send(part(b"", more=False))

    async def serve() -> None:
        arguments = SimpleNamespace(sse_keep_alive_interval=interval)
        scope = {"type": "http", "path": path, "app": SimpleNamespace(state=SimpleNamespace(args=arguments))}
        await KeepAlive(app)(scope, None, send)  # type: ignore[arg-type]
        count = len(messages)
        await asyncio.sleep(3 * INTERVAL)
        assert len(messages) == count  # nothing after the end
        assert asyncio.all_tasks() == {asyncio.current_task()}

    try:
        asyncio.run(serve())
    except ValueError:
        assert fails
    return [message["body"] for message in messages if "body" in message]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/resp_1", "/v1/messages"])
def test_a_silent_stream_is_commented_between_its_events(path: str) -> None:
    bodies = sent(path=path)
    assert [body for body in bodies if body != COMMENT] == [b"data: 1\n\n", b"data: 2\n\n", b""]
    assert bodies.count(COMMENT) >= 2
    assert bodies.index(b"data: 1\n\n") < bodies.index(COMMENT) < bodies.index(b"data: 2\n\n")


def test_comments_end_with_a_stream_that_fails() -> None:
    assert set(sent(fails=True)) == {b"data: 1\n\n", COMMENT}


@pytest.mark.parametrize(
    "options",
    [
        {"kind": b"application/json"},
        {"interval": 0},
        {"path": "/v1/chat/completions"},
        {"path": "/v1/completions"},
    ],
)
def test_other_answers_and_streams_that_vllm_keeps_alive_are_left_alone(options: dict[str, Any]) -> None:
    assert sent(**options, silent=False) == [b"data: 1\n\n", b"data: 2\n\n", b""]


@pytest.mark.compat
def test_vllm_keeps_exactly_the_other_streams_alive() -> None:
    """Change ``KEPT_BY_VLLM`` when vLLM changes which routes it wraps."""
    vllm = pytest.importorskip("vllm", reason="the routes are vLLM's")
    routers = (Path(vllm.__path__[0]) / "entrypoints").rglob("api_router.py")
    wrapping = [path.parent.name for path in routers if "with_sse_keep_alive(" in path.read_text()]
    assert sorted(wrapping) == ["chat_completion", "completion"]
    assert KEPT_BY_VLLM == ("/v1/chat/completions", "/v1/completions")
