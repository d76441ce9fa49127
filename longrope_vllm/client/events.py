"""What a stream tells, chunk by chunk. In: a chunk of chat completions, as JSON. Out: events, in their order.

Progress is llama.cpp's form, ``"prompt_progress": {"total", "cache", "processed", "time_ms"}``, with the place in the
queue before the prefill begins (``"queue_position"``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the prefill is, in tokens."""

    total: int
    cache: int
    """Found in the prefix cache: not computed."""
    processed: int
    """Cached ones among them."""
    seconds: float
    queue_position: int | None = None
    """Requests before this one, None once the prefill has begun."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Thought:
    """A piece of what a model writes to itself before it answers."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The answer is whole, for ``reason``: ``stop``, ``length``, ..."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Accounted:
    """What the server counted, as it said so; ``longrope`` says which tier served the request."""

    usage: dict[str, Any]
    longrope: dict[str, Any] | None


Event = Progress | Text | Thought | Finished | Accounted


def events_of(chunk: Mapping[str, Any]) -> Iterator[Event]:
    """The events in ``chunk``; none for a chunk that only opens the answer."""
    progress = chunk.get("prompt_progress")
    if progress:
        yield Progress(
            total=progress["total"],
            cache=progress.get("cache", 0),
            processed=progress["processed"],
            seconds=progress.get("time_ms", 0) / 1000,
            queue_position=progress.get("queue_position"),
        )
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta") or {}
        thought = delta.get("reasoning") or delta.get("reasoning_content")
        if thought:
            yield Thought(text=thought)
        if delta.get("content"):
            yield Text(text=delta["content"])
        if choice.get("finish_reason"):
            yield Finished(reason=choice["finish_reason"])
    if chunk.get("usage"):
        yield Accounted(usage=chunk["usage"], longrope=chunk.get("longrope"))
