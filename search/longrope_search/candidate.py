"""A candidate: the rope of one tier that a search may try.

Hashable and exact, so that a study knows what it has measured before, in whichever process.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

from longrope_vllm.factors import Tier


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Rescale factors with what belongs to them (LongRoPE, arXiv 2402.13753, equation 3)."""

    factors: tuple[float, ...]
    """Factor of each rotary pair, shape [P], relative to the unscaled rope."""
    attention_factor: float = 1.0
    """Multiplies cos and sin."""
    start_tokens: int = 0
    """Positions before this one keep the checkpoint's own rope."""
    origin: str = field(default="", compare=False)
    """Who proposed it, for the report; not part of what it is."""

    @cached_property
    def key(self) -> str:
        """Hash of all that decides its loss; equal candidates have equal ones, whatever type their numbers are of."""
        factors = tuple(float(factor) for factor in self.factors)
        stated = repr((factors, float(self.attention_factor), int(self.start_tokens)))
        return hashlib.sha256(stated.encode()).hexdigest()[:24]

    def tier(self, length: int) -> Tier:
        """The tier of sequences up to ``length`` tokens."""
        return Tier(
            max_length=length,
            factors=self.factors,
            attention_factor=self.attention_factor,
            start_tokens=min(self.start_tokens, length),
        )
