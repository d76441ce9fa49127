"""How a server ends: after what runs, at once, or because its engine failed.

SIGTERM drains: new requests are refused, those in flight finish within a limit, what is left then gets an error.
SIGINT, or a second signal, ends at once, with an error for all; Ctrl-C in a terminal reaches the engine's workers as
well, who obey it, so that there is nothing to drain. vLLM's own handler would stop the engine first and leave clients
waiting.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Literal

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.in_flight import InFlight

Phase = Literal["starting", "ready", "draining", "ending"]

RETRY_AFTER = {"Retry-After": "10"}
"""Header, in seconds: about what a supervisor takes to notice and to send clients elsewhere."""
CLOSING = 3.0
"""Seconds for the last errors to reach their clients; then the connections are cut."""

_TICK = 0.1

logger = logging.getLogger("vllm.longrope")


class Drain:
    """The phases of one server. All of its methods run in the server's event loop.

    ``unfinished`` counts what runs, with a connection or without; ``limit`` is how long that may take once a drain has
    begun, in seconds. ``stop`` ends the HTTP server, then the engine.
    """

    def __init__(
        self, *, in_flight: InFlight, unfinished: Callable[[], int], limit: float, stop: Callable[[], None]
    ) -> None:
        self.phase: Phase = "starting"
        self.failure: str | None = None
        """What happened to the engine, if the server ends because of it."""
        self._in_flight, self._unfinished, self._limit, self._stop = in_flight, unfinished, limit, stop
        self._hurry = False
        self._task: asyncio.Task[None] | None = None

    def ready(self) -> None:
        """The server takes requests from now on, and SIGTERM and SIGINT come here."""
        self.phase = "ready"
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.begin)
        loop.add_signal_handler(signal.SIGINT, self.hurry)

    def begin(self) -> None:
        """Drain; called again, end at once."""
        if self.phase != "ready":
            self.hurry()
            return
        self.phase = "draining"
        self._in_flight.refuse(_shutting_down())
        self._task = asyncio.get_running_loop().create_task(self._drain())

    def hurry(self) -> None:
        """End at once, whatever runs."""
        self._hurry = True
        if self.phase == "ready":
            self.begin()

    def fail(self, reason: str) -> None:
        """End because the engine cannot answer any more; ``reason`` goes on after "found"."""
        if self.phase == "ending":
            return
        logger.error("longrope: found %s: this server ends", reason)
        self.failure = reason
        self.phase = "ending"
        self._task = asyncio.get_running_loop().create_task(self._end(engine_dead(reason)))

    async def _drain(self) -> None:
        logger.info(
            "longrope: draining, %d requests over HTTP, %d in the engine, up to %.0f s; a second signal ends at once",
            len(self._in_flight),
            self._unfinished(),
            self._limit,
        )
        await self._until(lambda: self._hurry or self.failure is not None or self._is_idle(), within=self._limit)
        if self.failure is not None:
            return
        self.phase = "ending"
        await self._end(_shutting_down())

    async def _end(self, error: ApiError) -> None:
        self._in_flight.end(error)
        await self._until(lambda: len(self._in_flight) == 0, within=CLOSING)
        self._stop()

    def _is_idle(self) -> bool:
        return len(self._in_flight) + self._unfinished() == 0

    async def _until(self, condition: Callable[[], bool], *, within: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while not condition() and loop.time() < deadline:
            await asyncio.sleep(_TICK)


def engine_dead(reason: str) -> ApiError:
    """The answer of a server whose engine is in the state ``reason``."""
    return ApiError(
        f"Expected a running engine, found {reason}: send the request again, to another server or in a moment.",
        status=503,
        code="engine_dead",
        type="server_error",
        headers=RETRY_AFTER,
    )


def _shutting_down() -> ApiError:
    return ApiError(
        "Expected a server that stays, found one that is shutting down: send the request again, to another server or "
        "in a moment.",
        status=503,
        code="shutting_down",
        type="server_error",
        headers=RETRY_AFTER,
    )
