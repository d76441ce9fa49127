"""CMA-ES over a smooth correction of the best seed, through the package ``cma`` (Hansen, arXiv 1604.00772).

The unknowns are the heights of 16 knots along the rotary pairs. Between them the logarithm of the factors is corrected
linearly, and the result projected into the space: few unknowns, all of them about the shape of the whole curve.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from longrope_search.methods.engine import Batch, Engine
from longrope_search.space import Point, Space, Vector

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of optional plots that are not installed
    import cma


@dataclass(frozen=True, kw_only=True)
class CmaSettings:
    """Settings of one search."""

    evaluations: int = 100
    """Candidates in all, seeds included."""
    knots: int = 16
    spread: float = 0.1
    """First standard deviation, in units of the logarithm of the largest factor."""


def cma_es(space: Space, seeds: Sequence[Point], settings: CmaSettings, seed: int) -> Engine:
    """Search ``space`` around the best of ``seeds``. ``seed`` is that of the random numbers."""
    scores = yield Batch(candidates=[space.candidate(point) for point in seeds], keep=1, title="seeds")
    loss, _, best = min(zip((score.loss for score in scores), range(len(seeds)), seeds, strict=True))
    start = best
    width = max(np.log(space.largest), 0.1)
    strategy = cma.CMAEvolutionStrategy(
        np.zeros(min(settings.knots, space.pairs - best.pivot)),
        settings.spread * width,
        {"randn": np.random.RandomState(seed).randn, "seed": math.nan, "verbose": -9},
    )
    left = settings.evaluations - len(seeds)
    while left > 0 and not strategy.stop():
        heights = strategy.ask()
        points = [corrected(start, space, np.asarray(found)) for found in heights[:left]]
        scores = yield Batch(
            candidates=[space.candidate(point) for point in points],
            keep=max(1, len(points) // 2),  # only these move the mean
            title=f"iteration {strategy.countiter + 1}",
        )
        if len(points) == len(heights):  # else it was the last time
            strategy.tell(heights, [score.loss for score in scores])
        for point, score in zip(points, scores, strict=True):
            if not score.pruned and score.loss < loss:
                loss, best = score.loss, point
        left -= len(points)
    return best


def corrected(start: Point, space: Space, heights: Vector) -> Point:
    """``start`` with the logarithm of its free factors corrected by a polygon through ``heights``, shape [knots]."""
    free = space.pairs - start.pivot
    places = np.linspace(0, free - 1, len(heights))
    correction = np.interp(np.arange(free), places, heights)
    factors = start.factors.copy()
    factors[start.pivot :] *= np.exp(correction)
    return space.projected(replace(start, factors=factors, origin="cma"))
