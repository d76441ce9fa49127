"""The engine is killed, stopped, or left alone by its API server: real processes, one server for each drill.

Clients get an error within ten seconds, the server ends by an exit status that a supervisor restarts, and no process is
left, whoever died first.
"""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from left_processes import left
from longrope_vllm.server.running import RunningServer, running
from tiny_models import LONG, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

OPTIONS = ["--enforce-eager", "--dtype", "float32", "--served-model-name", "tiny", "--no-files"]
OPTIONS += ["--tiers", f"{LONG}:yarn", "--max-num-seqs", "2"]
QUESTION = {"model": "tiny", "prompt": "a" * 50, "max_tokens": LONG - 100, "ignore_eos": True}
WITHIN = 10.0
"""Seconds in which clients of a dead engine are told so."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("dead") / "model", layers=24))


@contextmanager
def served(checkpoint: Path, log: Path) -> Iterator[tuple[RunningServer, psutil.Process]]:
    """A server and the process of its engine core; afterwards none of its processes may be left."""
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    arguments = ["serve", str(checkpoint), *OPTIONS]
    with running("longrope_vllm.cli.main", arguments, environment=environment, log=log) as server:
        processes = psutil.Process(server.process.pid).children(recursive=True)
        (core,) = (process for process in processes if process.children())
        yield server, core
    assert left(processes) == []


async def asked(server: RunningServer, act: Callable[[httpx.AsyncClient], Awaitable[None]]) -> list[httpx.Response]:
    """What three clients are told when ``act`` happens: one waits for its answer, one has a stream, one is queued."""
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        questions = [QUESTION, {**QUESTION, "stream": True}]
        waiting = [asyncio.create_task(client.post("/v1/completions", json=question)) for question in questions]
        await state(client, "running", 2)
        waiting.append(asyncio.create_task(client.post("/v1/completions", json=QUESTION)))
        await state(client, "waiting", 1)
        await act(client)
        async with asyncio.timeout(WITHIN):
            return await asyncio.gather(*waiting)


async def state(client: httpx.AsyncClient, name: str, count: int) -> None:
    """Wait until ``count`` requests are in the state ``name`` in the engine."""
    async with asyncio.timeout(60):
        while await gauge(client, f"vllm:num_requests_{name}{{") < count:
            await asyncio.sleep(0.05)


async def gauge(client: httpx.AsyncClient, prefix: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(prefix))


def check_errors(answers: list[httpx.Response]) -> None:
    waiting, stream, queued = answers
    assert waiting.status_code in (500, 503)
    assert queued.status_code in (500, 503)
    assert stream.status_code == 200
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
    assert "error" in events[-1]


def test_clients_of_a_killed_engine_are_told_and_the_server_ends_with_a_failure(
    checkpoint: Path, tmp_path: Path
) -> None:
    with served(checkpoint, tmp_path / "log") as (server, core):

        async def kill(client: httpx.AsyncClient) -> None:
            core.kill()

        check_errors(asyncio.run(asked(server, kill)))
        assert server.process.wait(WITHIN) == 1
    assert "longrope: found one that has died: this server ends" in (tmp_path / "log").read_text()


def test_clients_of_a_stopped_engine_are_told_while_its_health_still_looks_well(
    checkpoint: Path, tmp_path: Path
) -> None:
    with served(checkpoint, tmp_path / "log") as (server, core):

        async def stop(client: httpx.AsyncClient) -> None:
            assert (await client.get("/health/progress")).status_code == 200
            core.send_signal(signal.SIGSTOP)
            while core.status() != psutil.STATUS_STOPPED:
                await asyncio.sleep(0.01)
            probe = await client.get("/health/progress")
            assert (probe.status_code, probe.json()["error"]["code"]) == (503, "engine_dead")
            assert (await client.get("/health")).status_code == 200

        answers = asyncio.run(asked(server, stop))
        check_errors(answers)
        assert answers[0].json()["error"]["code"] == "engine_dead"
        assert server.process.wait(WITHIN) == 1


def test_a_killed_api_server_leaves_no_engine_behind(checkpoint: Path, tmp_path: Path) -> None:
    with served(checkpoint, tmp_path / "log") as (server, _):
        server.process.kill()
        assert server.process.wait(WITHIN) == -signal.SIGKILL
