"""How far a response is: what the engine tells of its requests, and what the answering process knows itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longrope_vllm.plugin.followed import EngineRequest, Followed
from longrope_vllm.plugin.progress import EngineProgress, State
from longrope_vllm.server.engine_cores import ask_engine_cores


@dataclass(frozen=True, kw_only=True)
class PromptProgress:
    """The prefill of a response, in tokens; several prompts or choices are added up."""

    total: int
    cache: int
    """Taken from the prefix cache: not computed."""
    processed: int
    """Keys and values that are there, cached ones included. Falls when they are dropped."""
    time_ms: int
    """Since the prefill began, until now or its end. A server without statistics counts from the arrival in the engine,
    and goes on while it generates."""


@dataclass(frozen=True, kw_only=True)
class RequestProgress:
    """How far a response is that has reached the engine."""

    state: State
    queue_position: int | None
    """Requests before its first one in the queue, 0 for the next one; None once it runs."""
    prompt: PromptProgress
    output_tokens: int


async def ask_progress(engine: Any, followed: Followed) -> RequestProgress | None:
    """How far ``followed`` is; None while its prompt is prepared. An open one is asked of the engine."""
    told: dict[str, EngineProgress] = {}
    names = [request.name for request in followed.requests()]
    if names and followed.end is None:
        for answer in await ask_engine_cores(engine, "longrope_progress", names):
            told |= {name: EngineProgress(**found) for name, found in answer.items()}
    return progress_so_far(followed, told)


def progress_so_far(followed: Followed, told: Mapping[str, EngineProgress]) -> RequestProgress | None:
    """How far ``followed`` is by what the engine has ``told`` of its requests, as far as it has."""
    parts = [_part(request, told.get(request.name), followed.seconds()) for request in followed.requests()]
    return _together(parts) if parts else None


def _part(request: EngineRequest, told: EngineProgress | None, seconds: float) -> RequestProgress:
    if told is None:
        # On its way into the engine, or already out of it.
        state: State = "generating" if request.output_tokens else "queued"
        position, processed = None, request.prompt_tokens if request.output_tokens else 0
    else:
        state, position, processed = told.state, told.queue_position, told.processed_tokens
    cached = request.cached_tokens if told is None or told.cached_tokens is None else told.cached_tokens
    return RequestProgress(
        state=state,
        queue_position=position,
        prompt=PromptProgress(
            total=request.prompt_tokens,
            cache=min(cached, processed),
            processed=processed,
            time_ms=round(1000 * _prefill_seconds(request, told, state, seconds)),
        ),
        output_tokens=request.output_tokens,
    )


def _prefill_seconds(request: EngineRequest, told: EngineProgress | None, state: State, seconds: float) -> float:
    if state == "queued":
        return 0.0
    measured = told.prefill_seconds if told is not None and state == "prefill" else request.prefill_seconds
    return seconds if measured is None else measured


def _together(parts: Sequence[RequestProgress]) -> RequestProgress:
    states = {part.state for part in parts}
    state: State = next(state for state in ("generating", "prefill", "queued") if state in states)
    positions = [part.queue_position for part in parts if part.queue_position is not None]
    return RequestProgress(
        state=state,
        queue_position=min(positions, default=None) if state == "queued" else None,
        prompt=PromptProgress(
            total=sum(part.prompt.total for part in parts),
            cache=sum(part.prompt.cache for part in parts),
            processed=sum(part.prompt.processed for part in parts),
            time_ms=max(part.prompt.time_ms for part in parts),
        ),
        output_tokens=sum(part.output_tokens for part in parts),
    )
