"""How far requests are inside the engine: in the queue, in their prefill, generating.

Adds the method ``longrope_progress`` to ``EngineCore``, for every model. vLLM calls such methods by name, for the API
server and between two steps, so what they read is of one moment; this one changes nothing. Remove when vLLM tells an
API server how much of a prompt is computed.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

State = Literal["queued", "prefill", "generating"]

QUEUES = ("kv_holding_waiting", "skipped_waiting", "waiting")
"""Queues of a scheduler in the order in which they are drained; a version of vLLM has two of them."""
AWAITS_INPUT = "WAITING_FOR_STREAMING_REQ"
"""Status of a streaming session that its client has to go on with: it is in a queue and has nothing to compute."""


@dataclass(frozen=True, kw_only=True)
class EngineProgress:
    """How far one request of the engine is, in tokens."""

    state: State
    queue_position: int | None
    """Requests before it, 0 for the next one; None for one that is not in a queue."""
    prompt_tokens: int
    cached_tokens: int | None
    """Prompt tokens that its first prefill found in the prefix cache; None once its first output was sent with them."""
    processed_tokens: int
    """Prompt tokens whose keys and values are there, cached ones included. Falls when they are dropped: by a crossing,
    or by a preemption."""
    output_tokens: int
    prefill_seconds: float | None
    """Since this prefill began; None outside of one, and on a server without statistics."""


def install() -> None:
    """Give ``EngineCore`` its method."""
    from vllm.v1.engine.core import EngineCore

    def longrope_progress(self: Any, names: list[str]) -> dict[str, dict[str, Any]]:
        return {name: asdict(found) for name, found in progress_of(self.scheduler, names).items()}

    EngineCore.longrope_progress = longrope_progress


def progress_of(scheduler: Any, names: Sequence[str]) -> dict[str, EngineProgress]:
    """Progress of the requests that ``scheduler`` knows among ``names``, which are its own ids."""
    known = [scheduler.requests[name] for name in names if name in scheduler.requests]
    waiting = any(not _is_running(request) for request in known)
    positions = {request.request_id: place for place, request in enumerate(_queue(scheduler))} if waiting else {}
    return {request.request_id: _progress(request, positions.get(request.request_id)) for request in known}


def queues_of(scheduler: Any) -> list[Any]:
    """The queues that ``scheduler`` has, in the order of ``QUEUES``."""
    return [getattr(scheduler, name) for name in QUEUES if hasattr(scheduler, name)]


def _queue(scheduler: Any) -> Iterator[Any]:
    return chain.from_iterable(queues_of(scheduler))


def _is_running(request: Any) -> bool:
    return bool(request.status.name == "RUNNING")


def _progress(request: Any, position: int | None) -> EngineProgress:
    computed = _computed(request)
    state: State = "queued"
    if _is_running(request):
        # The last token of a sequence is computed when the next one is sampled.
        ready = request.num_output_tokens > 0 and computed >= request.num_tokens - 1
        state = "generating" if ready else "prefill"
    stats = request.prefill_stats
    return EngineProgress(
        state=state,
        queue_position=position,
        prompt_tokens=request.num_prompt_tokens,
        cached_tokens=None if stats is None else stats.num_cached_tokens,
        processed_tokens=min(computed, request.num_prompt_tokens),
        output_tokens=request.num_output_tokens,
        prefill_seconds=_prefill_seconds(request) if state == "prefill" else None,
    )


def _computed(request: Any) -> int:
    """Tokens of ``request`` whose keys and values are there.

    vLLM counts those of a step before it runs, and those of another machine before they arrive. Older versions keep no
    count of what is in flight: there it is ahead by a step.
    """
    if not _is_running(request):
        return 0
    in_flight: int = getattr(request, "num_in_flight_tokens", 0)
    computed: int = request.num_computed_tokens
    return max(0, computed - in_flight)


def _prefill_seconds(request: Any) -> float | None:
    """Since the request was first scheduled after its last output: its events are kept until the next one."""
    begins = (event.timestamp for event in request.events if event.type.name == "SCHEDULED")
    begun = next(begins, None)
    return None if begun is None else time.monotonic() - begun
