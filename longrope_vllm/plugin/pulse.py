"""A sign of life of the engine: that its loop turns, that its requests move, which process it is.

Adds the method ``longrope_pulse`` to ``EngineCore``, for every model. vLLM takes such a call from its input thread,
answers it between two steps and sends the answer through its output thread, so an answer says that all three are well.
Remove when vLLM has a health check of the engine core itself.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

import psutil

_MOVING = ("WAITING", "RUNNING", "PREEMPTED")
"""States of requests that nothing outside of the engine holds back."""


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """What one engine core answers."""

    pid: int
    created: float
    """When its process began, in seconds since the epoch: with ``pid``, which process of which machine it is."""
    requests: int
    """Those that should move on."""
    computed_tokens: int
    """Of all requests that are not finished, prompts and outputs together; changes whenever any of them moves."""


def install() -> None:
    """Give ``EngineCore`` its method."""
    from vllm.v1.engine.core import EngineCore

    def longrope_pulse(self: Any) -> dict[str, Any]:
        return asdict(pulse_of(self.scheduler))

    EngineCore.longrope_pulse = longrope_pulse


def pulse_of(scheduler: Any) -> Pulse:
    """The pulse of the process that ``scheduler`` runs in. A paused scheduler (sleep mode) has none to move."""
    requests = list(scheduler.requests.values())
    state = getattr(scheduler, "pause_state", None)
    paused = state is not None and state.name != "UNPAUSED"
    return Pulse(
        pid=os.getpid(),
        created=psutil.Process().create_time(),
        requests=0 if paused else sum(request.status.name in _MOVING for request in requests),
        computed_tokens=sum(request.num_computed_tokens + request.num_output_tokens for request in requests),
    )
