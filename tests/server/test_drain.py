"""SIGTERM to a server with a real engine: what runs is answered, what comes is refused, nothing is left.

One server has all the time it needs, one has too little. What a client should get is what vLLM's routes promise.
"""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from left_processes import left
from longrope_vllm.server.running import RunningServer, running
from tiny_models import LONG, byte_tokenizer, stretched, tiny_llama

pytestmark = pytest.mark.vllm

OPTIONS = ["--enforce-eager", "--dtype", "float32", "--served-model-name", "tiny"]
ANSWER = {"model": "tiny", "prompt": "a" * 50, "max_tokens": 100, "temperature": 0, "ignore_eos": True}
SHORT_ANSWER = {**ANSWER, "max_tokens": 3}
LONG_ANSWER = {**ANSWER, "max_tokens": LONG - 100}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many layers that an answer of many tokens takes seconds."""
    return stretched(byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("drained") / "model", layers=24)))


@contextmanager
def served(checkpoint: Path, folder: Path, *options: str) -> Iterator[tuple[RunningServer, list[psutil.Process]]]:
    """A server and the processes that it started; afterwards none of them may be left."""
    arguments = ["serve", str(checkpoint), *OPTIONS, "--files", str(folder / "files"), *options]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with running("longrope_vllm.cli.main", arguments, environment=environment, log=folder / "log") as server:
        processes = psutil.Process(server.process.pid).children(recursive=True)
        assert processes
        yield server, processes
    assert left(processes) == []


class SlowUpload:
    """A request whose second half of the body is sent when the test says so."""

    def __init__(self, url: str, route: str, body: bytes, content_type: str) -> None:
        self._address = urlsplit(url)
        head = f"POST {route} HTTP/1.1\r\nHost: server\r\nConnection: close\r\nContent-Type: {content_type}\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        half = len(request) - len(body) // 2
        self._first, self._second = request[:half], request[half:]

    async def begin(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        self._writer.write(self._first)
        await self._writer.drain()

    async def finish(self) -> tuple[int, Any]:
        """HTTP status and JSON of the answer."""
        self._writer.write(self._second)
        head, _, body = (await self._reader.read()).decode().partition("\r\n\r\n")
        self._writer.close()
        await self._writer.wait_closed()
        return int(head.split()[1]), json.loads(body)


def chunks(stream: str) -> list[Any]:
    return [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]


async def under_way(client: httpx.AsyncClient, count: int) -> None:
    """Wait until the engine computes ``count`` requests."""
    async with asyncio.timeout(60):
        while await running_requests(client) < count:
            await asyncio.sleep(0.05)


async def running_requests(client: httpx.AsyncClient) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_sigterm_refuses_what_comes_and_lets_what_runs_and_what_is_uploaded_finish(
    checkpoint: Path, tmp_path: Path
) -> None:
    with served(checkpoint, tmp_path) as (server, _):
        asyncio.run(drain(server))
        assert server.process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


async def drain(server: RunningServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        assert (await client.get("/health/ready")).json() == {"status": "ready"}
        waiting = asyncio.create_task(client.post("/v1/completions", json=ANSWER))
        streaming = asyncio.create_task(client.post("/v1/completions", json={**ANSWER, "stream": True}))
        question = SlowUpload(server.url, "/v1/completions", json.dumps(SHORT_ANSWER).encode(), "application/json")
        form = httpx.Request(
            "POST", server.url, data={"purpose": "user_data"}, files={"file": ("a.txt", b"text " * 99)}
        )
        document = SlowUpload(server.url, "/v1/files", form.read(), form.headers["content-type"])
        await question.begin()
        await document.begin()
        await under_way(client, 2)

        server.process.send_signal(signal.SIGTERM)
        while (ready := await client.get("/health/ready")).status_code == 200:
            await asyncio.sleep(0.05)
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
        refused = await client.post("/v1/completions", json=SHORT_ANSWER)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) > 0
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/health/progress")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200

        status, answer = await question.finish()
        assert (status, answer["usage"]["completion_tokens"]) == (200, 3)
        status, stored = await document.finish()
        assert (status, stored["bytes"]) == (200, 495)
        assert (await waiting).json()["usage"]["completion_tokens"] == 100
        assert chunks((await streaming).text)[-1]["choices"][0]["finish_reason"] == "length"


def test_what_is_left_when_the_time_is_over_gets_an_error(checkpoint: Path, tmp_path: Path) -> None:
    with served(checkpoint, tmp_path, "--shutdown-timeout", "1") as (server, _):
        asyncio.run(cut_short(server))
        assert server.process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


async def cut_short(server: RunningServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        waiting = [asyncio.create_task(client.post("/v1/completions", json=LONG_ANSWER)) for _ in range(16)]
        streaming = asyncio.create_task(client.post("/v1/completions", json={**LONG_ANSWER, "stream": True}))
        await under_way(client, 17)
        server.process.send_signal(signal.SIGTERM)
        for answer in await asyncio.gather(*waiting):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
        stream = await streaming
        assert stream.status_code == 200
        assert chunks(stream.text)[-1]["error"]["code"] == "shutting_down"
        assert stream.text.endswith("data: [DONE]\n\n")
