"""What came of a question: the answer, what the server counted, and how long it took."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Protocol

from longrope_vllm.client.events import Accounted, Event, Finished, Progress, Text, Thought
from longrope_vllm.client.failures import FailedRequestError
from longrope_vllm.lengths import format_length


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds from when the question was sent, but for the upload, which came before."""

    upload_s: float = 0.0
    queue_s: float | None = None
    """Until the prefill began; None where the server does not tell."""
    first_token_s: float | None = None
    """None for an answer without a token."""
    total_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer to its end."""

    text: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    """As the server said it; None for one that does not count."""
    longrope: dict[str, Any] | None = None
    """Tier and crossings, from ``longrope serve``."""
    cached_tokens: int | None = None
    """Of the prompt, from the prefix cache; None where nobody told."""
    timings: Timings = field(default_factory=Timings)

    def summary(self) -> str:
        """One line: tokens, tier, seconds, and whether the answer was cut off."""
        said = [*self._counted(), *self._tier()]
        if self.timings.first_token_s is not None:
            said.append(f"first token after {self.timings.first_token_s:.1f} s")
        said.append(f"{self.timings.total_s:.1f} s in all")
        if self.finish_reason == "length":
            said.append("cut off: it reached the limit of tokens")
        return " · ".join(said)

    def _counted(self) -> list[str]:
        if self.usage is None:
            return []
        cached = "" if self.cached_tokens is None else f" ({self.cached_tokens:,} from the cache)"
        return [
            f"prompt {self.usage.get('prompt_tokens', 0):,} tokens{cached}",
            f"answer {self.usage.get('completion_tokens', 0):,}",
        ]

    def _tier(self) -> list[str]:
        if not self.longrope:
            return []
        crossings = self.longrope.get("crossings", 0)
        crossed = f", outgrew {crossings} on the way" if crossings else ""
        return [f"tier {format_length(self.longrope['tier_max_length'])}{crossed}"]


class Listener(Protocol):
    """Who is told what arrives, as it arrives."""

    def progress(self, progress: Progress) -> None:
        """The server reads, or the request waits."""

    def thinking(self, text: str) -> None:
        """The model writes to itself."""

    def writing(self, text: str) -> None:
        """A piece of the answer."""


def listen(events: Iterable[Event], listener: Listener, *, upload_s: float = 0.0) -> Answer:
    """Hand ``events`` on to ``listener`` and gather them; ``upload_s`` is what came before.

    Progress after the first token (a request that outgrew its tier is prefilled again) is left out. Raises
    ``FailedRequestError`` when the events end before the answer does.
    """
    started = monotonic()
    answer = Answer(timings=Timings(upload_s=upload_s))
    pieces: list[str] = []
    for event in events:
        answer = _with(answer, event, monotonic() - started)
        match event:
            case Progress() if answer.timings.first_token_s is None:
                listener.progress(event)
            case Thought(text=text):
                listener.thinking(text)
            case Text(text=text):
                pieces.append(text)
                listener.writing(text)
    if answer.finish_reason is None:
        raise FailedRequestError(
            "Expected an answer to its end, found a stream that stopped within it: look at the server's log."
        )
    timings = replace(answer.timings, total_s=monotonic() - started)
    return replace(answer, text="".join(pieces), timings=timings)


def _with(answer: Answer, event: Event, elapsed: float) -> Answer:
    """``answer`` and what ``event`` tells, ``elapsed`` seconds after the question."""
    timings = answer.timings
    match event:
        case Progress(queue_position=None, cache=cache) if timings.first_token_s is None:
            queue_s = elapsed if timings.queue_s is None else timings.queue_s
            return replace(answer, cached_tokens=cache, timings=replace(timings, queue_s=queue_s))
        case Thought() | Text() if timings.first_token_s is None:
            return replace(answer, timings=replace(timings, first_token_s=elapsed))
        case Finished(reason=reason):
            return replace(answer, finish_reason=reason)
        case Accounted(usage=usage, longrope=longrope):
            stated = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            cached = answer.cached_tokens if stated is None else stated
            return replace(answer, usage=usage, longrope=longrope, cached_tokens=cached)
    return answer
