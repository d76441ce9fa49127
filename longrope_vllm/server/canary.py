"""Is the engine getting on: asked of the engine itself, every few seconds, through all that a request passes.

vLLM's ``/health`` says that no engine core has ended; it stays 200 when one hangs. Here an engine core is well while it
answers and has nothing to do, or its requests move. A single step may take minutes at a huge context, so silence counts
only when it lasts longer than a limit.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from longrope_vllm.plugin.pulse import Pulse
from longrope_vllm.server.engine_cores import ask_engine_cores
from longrope_vllm.server.progress_limit import LIMIT

PERIOD = 5.0
"""Seconds between an answer and the next question."""


class Canary:
    """When each engine core moved last. ``limit`` in seconds."""

    def __init__(self, *, limit: float = LIMIT) -> None:
        self.limit = limit
        self._moved: dict[tuple[int, float], float] = {}
        self._seen: dict[tuple[int, float], int] = {}

    def note(self, pulses: Sequence[Pulse], now: float) -> None:
        """Take the answers of all engine cores at ``now``, by the monotonic clock."""
        moved, seen = self._moved, self._seen
        self._moved, self._seen = {}, {}
        for pulse in pulses:
            core = pulse.pid, pulse.created
            still = pulse.requests > 0 and pulse.computed_tokens == seen.get(core)
            self._moved[core] = moved[core] if still else now
            self._seen[core] = pulse.computed_tokens

    def silence(self, now: float) -> float:
        """Seconds since the engine core that has waited longest was idle or moved; 0 before the first answer."""
        return now - min(self._moved.values(), default=now)

    async def watch(self, engine: Any) -> None:
        """Ask ``engine`` for ever; returns when it refuses to answer because it is ending."""
        while True:
            pulses = await ask_pulses(engine)
            if pulses is None:
                return
            self.note(pulses, time.monotonic())
            await asyncio.sleep(PERIOD)


async def ask_pulses(engine: Any) -> list[Pulse] | None:
    """The pulse of each engine core of ``engine``; None if one cannot be asked, because it is ending or dead."""
    question = asyncio.ensure_future(ask_engine_cores(engine, "longrope_pulse"))
    try:
        await asyncio.wait({question})
    finally:
        question.cancel()
    # vLLM fails such a question by a plain Exception, so what kind it is tells nothing.
    return [Pulse(**answer) for answer in question.result()] if question.exception() is None else None
