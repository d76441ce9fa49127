"""Signals to a supervised server and to its engine, with real processes but no model: phases, errors, exit status."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

pytest.importorskip("uvicorn", reason="comes with vLLM")

from longrope_vllm.server.running import free_port

SITE = Path(__file__).parents[1] / "supervised_site.py"


class Site:
    """A running ``supervised_site``, and a client of it."""

    def __init__(self, limit: int) -> None:
        port = free_port()
        command = [sys.executable, str(SITE), str(port), str(limit)]
        self.process = subprocess.Popen(command, process_group=0)
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60)

    async def up(self) -> None:
        while True:
            try:
                await self.client.get("/health")
            except httpx.TransportError:
                assert self.process.poll() is None
                await asyncio.sleep(0.05)
            else:
                return

    @property
    def engine(self) -> psutil.Process:
        (engine,) = psutil.Process(self.process.pid).children()
        return engine

    async def waiting(self) -> asyncio.Task[httpx.Response]:
        """A request that is in flight."""
        task = asyncio.create_task(self.client.post("/wait"))
        await asyncio.sleep(0.3)
        return task

    async def draining(self) -> None:
        self.process.terminate()
        while (await self.client.get("/health/ready")).status_code == 200:
            await asyncio.sleep(0.02)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 30)


@asynccontextmanager
async def running_site(limit: int) -> AsyncIterator[Site]:
    site = Site(limit)
    try:
        await site.up()
        yield site
    finally:
        await site.client.aclose()
        if site.process.poll() is None:
            os.killpg(site.process.pid, signal.SIGKILL)
            site.process.wait()


def drill(check: Callable[[Site], Awaitable[None]], *, limit: int = 600) -> None:
    async def run() -> None:
        async with asyncio.timeout(120), running_site(limit) as site:
            await check(site)

    asyncio.run(run())


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_second_signal_ends_a_drain_at_once_with_an_error_for_what_runs() -> None:
    async def check(site: Site) -> None:
        request = await site.waiting()
        await site.draining()
        assert not request.done()
        site.process.terminate()
        assert code(await request) == (503, "shutting_down")
        assert await site.ended() == 0

    drill(check)


def test_ctrl_c_ends_at_once_with_an_error_for_what_runs() -> None:
    async def check(site: Site) -> None:
        request = await site.waiting()
        site.process.send_signal(signal.SIGINT)
        assert code(await request) == (503, "shutting_down")
        assert await site.ended() == 0

    drill(check)


def test_a_drain_ends_when_the_last_client_has_left() -> None:
    async def check(site: Site) -> None:
        request = await site.waiting()
        await site.draining()
        request.cancel()
        assert await site.ended() == 0

    drill(check)


def test_a_drain_without_time_tells_its_clients() -> None:
    async def check(site: Site) -> None:
        request = await site.waiting()
        site.process.terminate()
        assert code(await request) == (503, "shutting_down")
        assert await site.ended() == 0

    drill(check, limit=0)


def test_a_stop_of_the_whole_server_is_survived() -> None:
    async def check(site: Site) -> None:
        request = await site.waiting()
        os.killpg(site.process.pid, signal.SIGSTOP)
        await asyncio.sleep(1.5)  # three times what the server allows its engine alone
        os.killpg(site.process.pid, signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert (await site.client.get("/health/progress")).json()["status"] == "ok"
        assert not request.done()
        request.cancel()

    drill(check)


def test_a_stopped_engine_ends_the_server_with_a_failure_also_while_it_drains() -> None:
    async def check(site: Site) -> None:
        engine, request = site.engine, await site.waiting()
        await site.draining()
        engine.suspend()
        assert code(await request) == (503, "engine_dead")
        assert await site.ended() == 1
        assert not engine.is_running()

    drill(check)
