"""A piece of an evaluation: what it will have measured when it is done, what it costs, and how it is done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longrope_vllm.evaluation.records import Key, Record

_ATTENTION_OUTWEIGHS = 32_768
"""Tokens from which attention takes most of a pass: 10k for the smallest models, 60k for one of 8B."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One measurement, of one or several samples; the smallest step that an interrupted evaluation repeats."""

    title: str
    """What a person sees while it runs: ``ppl yarn 16k kjv 2``."""
    keys: tuple[Key, ...]
    """Records it makes. It is left out when all of them are in the journal."""
    tokens: int
    """Tokens of a sequence that the model will read."""
    passes: float = 1.0
    """Such sequences."""
    measure: Callable[[], Sequence[Record]]
    """Does it. Raises ``LongRopeError``."""

    @property
    def cost(self) -> float:
        """How long it takes, in no unit: linear in tokens, and quadratic where attention outweighs the rest."""
        return self.passes * self.tokens * (1 + self.tokens / _ATTENTION_OUTWEIGHS)
