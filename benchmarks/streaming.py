"""One streamed completion over HTTP, through the openai SDK, with the times at which its tokens arrived."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy
import openai

VOCABULARY = 49_152
"""Token ids of the demo model; the first 17 are special."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds. ``arrivals`` has one entry for each event with tokens, ``tokens`` is the server's own count."""

    id: str
    started: float
    arrivals: tuple[float, ...]
    tokens: int

    @property
    def first(self) -> float:
        """Time to first token."""
        return self.arrivals[0] - self.started

    @property
    def between(self) -> float:
        """Mean time between tokens, which does not change when a busy client receives two in one event."""
        return (self.arrivals[-1] - self.arrivals[0]) / (self.tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """The times between one event and the next."""
        return [later - earlier for earlier, later in pairwise(self.arrivals)]


def random_prompt(random: numpy.random.Generator, tokens: int) -> list[int]:
    """Token ids that no other prompt begins with, so that the prefix cache cannot help."""
    return random.integers(17, VOCABULARY, tokens).tolist()


async def stream(client: openai.AsyncOpenAI, model: str, prompt: Sequence[int], max_tokens: int) -> Timed:
    """Ask for exactly ``max_tokens``, greedily."""
    started = time.perf_counter()
    events = await client.completions.create(
        model=model,
        prompt=list(prompt),
        max_tokens=max_tokens,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    name, arrivals, tokens = "", [], 0
    async for event in events:
        name = event.id
        if event.choices:
            arrivals.append(time.perf_counter())
        if event.usage:
            tokens = event.usage.completion_tokens
    assert tokens == max_tokens, f"asked for {max_tokens} tokens, got {tokens}"
    return Timed(id=name, started=started, arrivals=tuple(arrivals), tokens=tokens)


def client(url: str) -> openai.AsyncOpenAI:
    """A client that waits as long as a prefill takes and never asks twice."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600.0)
