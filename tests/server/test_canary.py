"""When an engine counts as stuck: a clock and made pulses."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("psutil", reason="comes with vLLM")

from longrope_vllm.cli.serve import add_arguments
from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.pulse import Pulse
from longrope_vllm.server.canary import Canary, ask_pulses
from longrope_vllm.server.progress_limit import LIMIT, checked


def pulse(requests: int, tokens: int, pid: int = 7) -> Pulse:
    return Pulse(pid=pid, created=1.0, requests=requests, computed_tokens=tokens)


@pytest.mark.parametrize(
    ("pulses", "silence"),
    [
        ([], 0),
        ([(0, pulse(0, 0)), (50, pulse(0, 0))], 50),  # idle, and last asked at 50
        ([(0, pulse(0, 0)), (99, pulse(0, 0))], 1),
        ([(0, pulse(1, 0)), (50, pulse(1, 8)), (99, pulse(1, 16))], 1),  # a prefill in steps
        (
            [(0, pulse(0, 0)), (10, pulse(1, 0)), (40, pulse(1, 0)), (70, pulse(1, 0))],
            100,
        ),  # it never began
        ([(0, pulse(2, 5)), (30, pulse(2, 9)), (60, pulse(2, 9)), (90, pulse(2, 9))], 70),  # it moved until 30
        ([(0, pulse(2, 5)), (60, pulse(1, 5))], 100),  # one is gone, the other has not moved
        ([(0, pulse(1, 5)), (90, pulse(0, 5))], 10),  # nothing is left to do
        ([(0, pulse(1, 5)), (60, pulse(1, 5, pid=8))], 40),  # another engine core
    ],
)
def test_silence_is_counted_from_the_last_time_that_an_engine_core_was_idle_or_moved(
    pulses: list[tuple[float, Pulse]], silence: float
) -> None:
    canary = Canary()
    for now, seen in pulses:
        canary.note([seen], now)
    assert canary.silence(100.0) == silence


def test_of_several_engine_cores_the_stillest_counts() -> None:
    canary = Canary()
    for now in (0.0, 50.0, 100.0):
        canary.note([pulse(1, int(now)), pulse(1, 3, pid=8)], now)
    assert canary.silence(100.0) == 100.0


def engine(answer: Any) -> Any:
    async def call(method: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return SimpleNamespace(engine_core=SimpleNamespace(call_utility_all_async=call))


def test_an_engine_is_asked_for_its_pulse() -> None:
    answer = [{"pid": 7, "created": 1.0, "requests": 2, "computed_tokens": 3}]
    assert asyncio.run(ask_pulses(engine(answer))) == [pulse(2, 3)]


def test_an_engine_that_is_ending_has_no_pulse() -> None:
    assert asyncio.run(ask_pulses(engine(RuntimeError("Server shutting down")))) is None


def test_the_limit_is_an_option_that_leaves_an_engine_time() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args([]).progress_limit == LIMIT == checked(LIMIT)
    assert checked(parser.parse_args(["--progress-limit", "900"]).progress_limit) == 900
    with pytest.raises(UnsupportedError, match="at least 15 seconds, found 3"):
        checked(3)
