"""What an engine core says of itself: of a made scheduler, and of this process."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("psutil", reason="comes with vLLM")

import psutil

from longrope_vllm.plugin.pulse import pulse_of


def request(status: str, computed: int, output: int) -> Any:
    return SimpleNamespace(status=SimpleNamespace(name=status), num_computed_tokens=computed, num_output_tokens=output)


def scheduler(*requests: Any, pause: str | None = "UNPAUSED") -> Any:
    made = SimpleNamespace(requests=dict(enumerate(requests)))
    if pause is not None:  # older schedulers cannot be paused
        made.pause_state = SimpleNamespace(name=pause)
    return made


REQUESTS = [
    request("RUNNING", 100, 5),
    request("WAITING", 0, 0),
    request("PREEMPTED", 0, 7),
    request("WAITING_FOR_STREAMING_REQ", 30, 2),
    request("FINISHED_STOPPED", 10, 1),
]


@pytest.mark.parametrize(("pause", "moving"), [("UNPAUSED", 3), (None, 3), ("PAUSED_NEW", 0), ("PAUSED_ALL", 0)])
def test_requests_that_wait_for_nobody_should_move_unless_the_scheduler_is_paused(
    pause: str | None, moving: int
) -> None:
    found = pulse_of(scheduler(*REQUESTS, pause=pause))
    assert (found.requests, found.computed_tokens) == (moving, 155)


def test_a_pulse_names_the_process_that_it_is_of() -> None:
    found = pulse_of(scheduler())
    assert psutil.Process(found.pid) == psutil.Process(os.getpid())
    assert found.created == psutil.Process().create_time()
