"""A piece of an evaluation: what it will have measured when it is done, what it costs, and how it is done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longrope_vllm.evaluation.records import Key, Record


@dataclass(frozen=True, kw_only=True)
class Work:
    """One measurement, of one or several samples; the smallest step that an interrupted evaluation repeats."""

    title: str
    """What a person sees while it runs: ``ppl yarn 16k kjv 2``."""
    keys: tuple[Key, ...]
    """Records it makes. It is left out when all of them are in the journal."""
    tokens: int
    """Tokens the model will read, by which the time that is left is estimated."""
    measure: Callable[[], Sequence[Record]]
    """Does it. Raises ``LongRopeError``."""
