"""What watches a server while it runs, put together: requests in flight, drain, processes of the engine, canary.

vLLM's own watch is built on: it ends an API server whose engine core has died. What it leaves out is here: clients that
would hang, an engine that is stopped, and an exit status other than 0.
"""

import asyncio
import threading
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from longrope_vllm.server.canary import Canary, ask_pulses
from longrope_vllm.server.drain import CLOSING, Drain
from longrope_vllm.server.engine_processes import EngineProcesses
from longrope_vllm.server.in_flight import InFlight, TrackInFlight
from longrope_vllm.server.launch import FAILURE
from longrope_vllm.server.progress_limit import ATTRIBUTE, LIMIT
from longrope_vllm.server.stored_responses import in_background

INTERVAL = 1.0
"""Seconds between two looks at the engine."""
STOPPED_LOOKS = 5
"""Looks in a row that find a stopped process before it counts as lost. Looks, not seconds: what stops a whole server
(``docker pause``, a debugger) stops the looking as well, and all of it resumes together."""

_SEVERAL = 1 + CLOSING
"""Seconds by which each of several API servers ends before their parent would kill it."""

_Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class Supervision:
    """The supervision of one app; ``engine`` is vLLM's engine client, None on a server that only renders."""

    def __init__(self, *, in_flight: InFlight, engine: Any, state: Any, args: Namespace) -> None:
        self._engine, self._state, self._args = engine, state, args
        self._processes = EngineProcesses(())
        self.canary = Canary(limit=getattr(args, ATTRIBUTE, LIMIT))
        self.drain = Drain(
            in_flight=in_flight,
            unfinished=self._unfinished,
            limit=_drain_limit(args),
            stop=self._stop,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the app runs. The HTTP server listens only when this has been entered."""
        watches = []
        if self._engine is not None:
            self._processes = EngineProcesses.of(await ask_pulses(self._engine) or ())
            watches = [asyncio.create_task(watch) for watch in (self._watch(), self.canary.watch(self._engine))]
        self.drain.ready()
        yield
        self._end_if_dead()  # vLLM may have noticed it first
        for watch in watches:
            watch.cancel()

    def trouble(self) -> str | None:
        """What is wrong with the engine as of this moment; None if nothing is known."""
        if self.drain.failure is not None:
            return self.drain.failure
        if self._is_dead():
            return "one that has died"
        return "one that is stopped" if self._processes.is_stopped() else None

    def _is_dead(self) -> bool:
        """True if vLLM says so, or if an engine core is gone that another process started: vLLM watches its own only,
        and may end one of these on purpose."""
        if self._engine is None:
            return False
        started_here = self._engine.engine_core.resources.engine_manager is not None
        return self._engine.errored or (not started_here and self._processes.is_gone())

    async def _watch(self) -> None:
        stopped = 0
        while True:
            await asyncio.sleep(INTERVAL)
            self._end_if_dead()
            stopped = stopped + 1 if self._processes.is_stopped() else 0
            if stopped == STOPPED_LOOKS:
                self._fail("one that was stopped by a signal")

    def _end_if_dead(self) -> None:
        if self._is_dead():
            self._fail("one that has died")

    def _fail(self, reason: str) -> None:
        if self.drain.phase != "ending":
            setattr(self._args, FAILURE, reason)
            self.drain.fail(reason)

    def _unfinished(self) -> int:
        """Requests in the engine and responses in the background, which may be between two of them."""
        engine = self._engine
        in_engine = 0 if engine is None else engine.output_processor.get_num_unfinished_requests()
        return int(in_engine + in_background(self._state))

    def _stop(self) -> None:
        """End the HTTP server, by which vLLM then ends the engine: at once, as it has nothing left to do."""
        if self.drain.failure is not None:
            self._processes.kill()  # workers may outlive their engine core, in the middle of a step
        if self._engine is not None:
            self._engine.vllm_config.shutdown_timeout = 0
        server = self._state.server
        server.should_exit = True
        asyncio.get_running_loop().call_later(CLOSING, setattr, server, "force_exit", True)


def attach(app: FastAPI) -> None:
    """Track the requests of ``app``, and watch its engine while it runs, once ``begin`` was called."""
    app.state.longrope_in_flight = in_flight = InFlight()
    app.add_middleware(TrackInFlight, in_flight=in_flight)
    app.router.lifespan_context = _supervised(app.router.lifespan_context)


def begin(engine: Any, state: Any, args: Namespace) -> None:
    """Make the supervision of the app whose ``state`` this is."""
    state.longrope_supervision = Supervision(in_flight=state.longrope_in_flight, engine=engine, state=state, args=args)


def _supervised(original: _Lifespan) -> _Lifespan:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with original(app) as state:
            if threading.current_thread() is not threading.main_thread():  # where no signals come: not a server's
                yield state
                return
            supervision: Supervision = app.state.longrope_supervision
            async with supervision.running():
                yield state

    return lifespan


def _drain_limit(args: Namespace) -> float:
    limit = float(getattr(args, "shutdown_timeout", 0))
    several = (getattr(args, "api_server_count", None) or 1) > 1
    return max(0.0, limit - _SEVERAL) if several else limit
