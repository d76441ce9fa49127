"""Documents as steps of fidelity: a candidate that is clearly worse after two is not scored on all of them.

The loss that counts is the mean over all n passages of the search. After the first k of them the mean over the rest is
unknown, so the difference of two candidates' means is known up to a standard error of ``sd * sqrt(1/k - 1/n)``, with
the standard deviation of their difference from passage to passage (the passages are all there are: a finite
population). A candidate is pruned when it is worse than the worst that would be kept by more than Z of those.
Wilcoxon's signed ranks, made for such pairs, cannot reject anything after two passages at any level below 1/4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longrope_search.space import Vector

FIRST = 2
"""Passages that every candidate is scored on."""
Z = 3.0
"""Standard errors that count as clearly worse."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """What the first passages say about a batch. Rows are candidates."""

    reference: int
    """The worst row that would be kept."""
    worse: Vector
    """By how much the mean of each row is above the reference's, [C]."""
    clearly: tuple[bool, ...]
    """Which rows are clearly worse, [C]."""


def standing(losses: Vector, *, keep: int, passages: int) -> Standing:
    """Compare rows by ``losses`` [C, k] on the first k >= 2 of ``passages``; ``keep`` of them must be told apart."""
    count, known = losses.shape
    order = np.argsort(losses.mean(axis=1), kind="stable")
    reference = int(order[min(keep, count) - 1])
    differences = losses - losses[reference]
    spreads = differences.std(axis=1, ddof=1)
    usual = float(np.median(np.delete(spreads, reference))) if count > 1 else 0.0
    errors = np.maximum(spreads, usual) * math.sqrt(1 / known - 1 / passages)
    worse = differences.mean(axis=1)
    clearly = tuple(bool(above > Z * error) for above, error in zip(worse, errors, strict=True))
    return Standing(reference=reference, worse=worse, clearly=clearly)


def rungs(passages: int, *, pruning: bool) -> Sequence[range]:
    """The passages of each step, by index."""
    if not pruning or passages <= FIRST:
        return [range(passages)]
    return [range(FIRST), range(FIRST, passages)]
