"""The one protocol of all methods: a generator that yields batches of candidates and is sent their scores.

    batch = next(engine); batch = engine.send(scores); ...; StopIteration

An engine is a pure function of its space, its settings and the scores: it knows neither the clock nor the model nor who
measured. That is what makes a search resumable: it is run again from its beginning, and what has been measured before
is answered from the study.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from longrope_search.candidate import Candidate
from longrope_search.space import Point, Vector


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradient:
    """Derivatives of the mean loss in nats."""

    log_factors: Vector
    """With respect to the logarithm of each factor, shape [P]."""
    log_attention_factor: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a candidate is worth."""

    loss: float
    """Mean over the tokens of all passages asked for, in nats; an estimate when pruned."""
    pruned: bool = False
    """Left out of further passages, because it was clearly worse than those that matter."""
    gradient: Gradient | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Candidates that may be scored side by side and in any order."""

    candidates: Sequence[Candidate]
    keep: int
    """So many of the best must be told apart: one that is clearly worse than all of them may be pruned."""
    rivals: Sequence[Candidate] = ()
    """Scored before, and compared with these when ``keep`` are chosen."""
    passages: tuple[int, ...] | None = None
    """On which passages of the search; None for all, with pruning."""
    gradient: bool = False
    title: str = ""
    """For progress: ``generation 3``."""


Scores = Sequence[Score]
Engine = Generator[Batch, Scores, Point]
"""Yields batches, is sent the scores in their order, returns the best point."""
