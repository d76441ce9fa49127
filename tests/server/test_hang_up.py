"""A client that leaves while something is counted or read for it ends that work, and nobody is told of a fault."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="requests are checked by vLLM's own classes")

from fastapi import FastAPI

from longrope_vllm.server.in_flight import InFlight, TrackInFlight
from longrope_vllm.server.token_count import router

pytestmark = pytest.mark.vllm


def test_a_count_that_nobody_waits_for_ends() -> None:
    ended: list[str] = []
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": b'{"prompt": "word", "model": "m"}', "more_body": False}]

    async def count(*_: object) -> int:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("count")
        return 1

    async def check(_: object) -> None:
        return None

    async def receive() -> Any:
        await asyncio.sleep(0.01)
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    app = FastAPI()
    app.include_router(router)
    app.state.longrope_files = None
    app.state.serving_tokenization = SimpleNamespace(_check_model=check)
    app.state.longrope_prompts = SimpleNamespace(count=count)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/responses/input_tokens",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    asyncio.run(asyncio.wait_for(TrackInFlight(app, in_flight=InFlight())(scope, receive, send), 10))
    assert ended == ["count"]
    assert sent[0]["status"] == 499
