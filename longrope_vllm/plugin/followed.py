"""The engine's requests behind a response, followed in the process that answers.

vLLM makes the engine's ids of a response's id and random digits, and of one response several: for choices, prompts,
turns. Whoever answers sets ``following``, and what is handed to the engine meanwhile belongs to that response.

Patch of ``vllm.v1.engine.output_processor.OutputProcessor.add_request``. Remove when vLLM tells a route which requests
its handler started.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from longrope_vllm.plugin.patching import wrap_once

End = Literal["finished", "aborted"]


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """One of the engine's requests as the process that answers sees it, in tokens."""

    name: str
    """Its id in the engine."""
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens from the prefix cache; 0 until its first output."""
    output_tokens: int
    prefill_seconds: float | None
    """Of its first prefill; None before its end, and on a server without statistics."""


class Followed:
    """A response in the making and, for a while, what it was made of.

    ``first_only`` is for a beam search, which starts requests without end: its prompt is prefilled by the first one.
    """

    def __init__(self, response_id: str, *, first_only: bool = False) -> None:
        self.id = response_id
        self.end: End | None = None
        """How it ended; None while it is open."""
        self.adapter: str | None = None
        """Name of its LoRA adapter, once it is in the engine."""
        self._first_only = first_only
        self._begun = self._ended = time.monotonic()
        self._states: dict[str, Any] = {}
        self._last: tuple[EngineRequest, ...] = ()

    def add(self, state: Any) -> None:
        """Take a ``RequestState`` of vLLM's output processor as one of its requests."""
        if self.end is not None or (self._first_only and self._states):
            return
        if not self._states:
            self._begun = time.monotonic()
            self.adapter = state.lora_name
        self._states[state.request_id] = state

    def close(self, end: End) -> None:
        """Keep the numbers and let go of vLLM's objects, which hold the prompt. The first end counts."""
        if self.end is None:
            self._last, self._ended, self.end = self.requests(), time.monotonic(), end
            self._states.clear()

    def requests(self) -> tuple[EngineRequest, ...]:
        """Its requests so far; none while its prompt is prepared."""
        if self.end is not None:
            return self._last
        return tuple(_engine_request(state) for state in self._states.values())

    def seconds(self) -> float:
        """Since its first request was handed to the engine, until now or its end."""
        return (time.monotonic() if self.end is None else self._ended) - self._begun


_current: ContextVar[Followed | None] = ContextVar("longrope_followed", default=None)


@contextmanager
def following(followed: Followed) -> Iterator[None]:
    """What this context hands to the engine, also in tasks it starts, belongs to ``followed``."""
    token = _current.set(followed)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Followed | None:
    """The response that this context works on."""
    return _current.get()


def install() -> None:
    """Wrap the method by which every request of an API server reaches the engine."""
    from vllm.v1.engine.output_processor import OutputProcessor

    wrap_once(OutputProcessor, "add_request", _followed)


def _followed(original: Callable[..., Any]) -> Callable[..., Any]:
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, request, *args, **kwargs)
        followed = current()
        if followed is not None:
            followed.add(self.request_states[request.request_id])
        return result

    return add_request


def _engine_request(state: Any) -> EngineRequest:
    stats, output_tokens = state.stats, state.detokenizer.num_output_tokens()
    timed = output_tokens > 0 and stats is not None and stats.scheduled_ts > 0
    return EngineRequest(
        name=state.request_id,
        prompt_tokens=state.prompt_len,
        cached_tokens=state.num_cached_tokens,
        output_tokens=output_tokens,
        prefill_seconds=stats.first_token_ts - stats.scheduled_ts if timed else None,
    )
