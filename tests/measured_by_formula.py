"""A loss that is a formula of the factors, in place of a model: for tests of everything around it."""

from time import sleep

import numpy as np
import torch

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Gradient
from longrope_search.model.passages import Passage
from longrope_search.model.scorer import Measured
from longrope_vllm import Geometry, Tier

GEOMETRY = Geometry(
    head_size=64, rotary_dim=64, base=100_000.0, trained_window=8192, max_positions=8192, rope_type="default"
)
BEST = np.log(np.linspace(1.0, 6.0, 32))
"""Logarithm of the factors of least loss."""


def footing() -> Tier:
    """The plain rope of ``GEOMETRY``."""
    return Tier(max_length=8192, factors=(1.0,) * 32)


def passages(count: int = 5) -> list[Passage]:
    """Short ones, told apart by their tokens."""
    return [Passage(name=f"passage {at}", tokens=torch.full((16,), at), counted=15) for at in range(count)]


class Formula:
    """``off + (1 + off / 50) * |log lambda - best| ** 2`` with an offset for each passage; counts its passes."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.passes: list[tuple[str, str, bool]] = []

    def loss(self, candidate: Candidate, passage: Passage) -> float:
        """In no unit."""
        off = 0.1 * float(passage.tokens[0])
        away = np.log(np.asarray(candidate.factors)) - BEST
        return off + (1 + off / 50) * float(away @ away) + 1e-3 * candidate.start_tokens

    def __call__(
        self, candidate: Candidate, passage: Passage, *, gradient: bool = False, curve: bool = False
    ) -> Measured:
        """As ``Scorer.measure``."""
        sleep(self.seconds)
        self.passes.append((candidate.key, passage.name, gradient))
        off = 0.1 * float(passage.tokens[0])
        away = np.log(np.asarray(candidate.factors)) - BEST
        slope = Gradient(log_factors=2 * (1 + off / 50) * away, log_attention_factor=0.0)
        loss = self.loss(candidate, passage)
        return Measured(
            loss=loss,
            seconds=self.seconds,
            gradient=slope if gradient else None,
            curve=(loss, loss) if curve else (),
            last=loss if curve else 0.0,
        )
