"""What is evaluated: one column of the comparison, a model under one set of factors, in process or behind a URL."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from longrope_vllm.evaluation.harness.models import Bounded  # lm-eval takes seconds to import


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Losses of a document."""

    losses: Tensor
    """Cross-entropy in nats of every token from the second on, float32 on the CPU, shape [T - 1]."""
    tier: int | None
    """Longest sequence of the tier that it was read under, where that is known."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A greedy answer."""

    text: str
    tier: int | None


class Subject(Protocol):
    """A model under one set of factors. Sequences are token ids, exactly those that the model reads."""

    @property
    def label(self) -> str:
        """Its name in the report."""

    def check(self, length: int) -> None:
        """Raise ``LongRopeError`` unless it can read sequences of ``length`` tokens."""

    def rope(self, length: int) -> Hashable:
        """What sequences of ``length`` tokens are read under: equal for another length, or another subject, exactly
        when the same sequence gives the same answer there.

        So the tier of the model's own rope is measured once for all methods, and one pass over a document gives every
        length under its rope: a causal model's losses of the first tokens do not depend on the later ones.
        """

    def score(self, tokens: Tensor, *, length: int) -> Scored:
        """Losses of ``tokens`` [T] under the rope of sequences of ``length`` tokens, which T may be below."""

    def answer(self, prompt: Sequence[int], *, max_tokens: int, length: int) -> Answered:
        """The greedy continuation of ``prompt``, under the rope of sequences of ``length`` tokens."""

    def harness_model(self) -> "Bounded":
        """Itself as a model of lm-eval. Raises ``MissingExtraError`` without lm-eval."""

    def close(self) -> None:
        """Give back what it holds."""
