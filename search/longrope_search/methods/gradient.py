"""Gradient descent on the logarithm of the factors: the loss is differentiable in them.

One pass forward and backward gives the derivative with respect to all factors at once, where an evaluation gives one
number. Steps are Adam's (arXiv 1412.6980) with a cosine schedule; after each, the factors are projected into the space,
so that they never decrease from pair to pair. Fast pairs have noisy derivatives, over which averages of the last steps
are calmer than any one of them: these are scored as well at the end (Polyak and Juditsky, 1992).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from longrope_search.methods.engine import Batch, Engine
from longrope_search.space import Point, Space, Vector


@dataclass(frozen=True, kw_only=True)
class GradientSettings:
    """Settings of one search."""

    steps: int = 20
    rate: float = 0.05
    """First step of each logarithm."""
    learn_attention_factor: bool = False
    fade: float = 0.9
    """Adam's decay of the mean."""
    fade_square: float = 0.95
    """Adam's decay of the mean square: a search has tens of steps, not thousands."""


def gradient(space: Space, seeds: Sequence[Point], settings: GradientSettings, *, passages: int) -> Engine:
    """Descend from the best of ``seeds``, on one passage a step, in turn; ``passages`` are those of the search.

    Returns the best of the last point, the averages and the seed: steps see some of the passages only.
    """
    scores = yield Batch(candidates=[space.candidate(point) for point in seeds], keep=1, title="seeds")
    loss, _, seed = min(zip((score.loss for score in scores), range(len(seeds)), seeds, strict=True))
    point = seed
    logs = np.append(np.log(point.factors[point.pivot :]), math.log(point.attention_factor))
    adam = _Adam(len(logs), settings)
    path: list[Vector] = []
    for step in range(settings.steps):
        (score,) = yield Batch(
            candidates=[space.candidate(point)],
            keep=1,
            passages=(step % passages,),
            gradient=True,
            title=f"step {step + 1} of {settings.steps}",
        )
        assert score.gradient is not None
        slope = _of_free(score.gradient.log_factors, point.pivot)
        attention = score.gradient.log_attention_factor if settings.learn_attention_factor else 0.0
        rate = settings.rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        logs = logs - rate * adam.direction(np.append(slope, attention))
        point = replace(_at(space, point, logs), origin=f"step {step + 1}")
        logs[:-1] = np.log(point.factors[point.pivot :])
        path.append(logs.copy())
    ends = [_at(space, point, np.mean(path[-last:], axis=0)) for last in _averages(settings.steps)]
    scores = yield Batch(candidates=[space.candidate(end) for end in ends], keep=1, title="last step and averages")
    found = zip((score.loss for score in scores), range(1, 1 + len(ends)), ends, strict=True)
    return min((loss, 0, seed), *found)[2]


def _averages(steps: int) -> list[int]:
    """How many of the last steps are averaged: one, a quarter and half of all."""
    return sorted({1, max(1, steps // 4), max(1, steps // 2)})


def _at(space: Space, point: Point, logs: Vector) -> Point:
    """The point of the space at ``logs``, those of the free factors and of the attention factor."""
    factors = np.ones(space.pairs)
    factors[point.pivot :] = np.exp(logs[:-1])
    found = replace(point, factors=factors, attention_factor=math.exp(logs[-1]), origin="average of steps")
    return space.bounded(found)


def _of_free(slope: Vector, pivot: int) -> Vector:
    """[P - pivot]: below the pivot ``log lambda_i = i / c * log lambda_c``, so that their slopes are its own."""
    free = slope[pivot:].copy()
    if pivot:
        free[0] += slope[:pivot] @ (np.arange(pivot) / pivot)
    return free


class _Adam:
    """The direction of Adam's next step."""

    def __init__(self, unknowns: int, settings: GradientSettings) -> None:
        self._settings = settings
        self._mean = np.zeros(unknowns)
        self._square = np.zeros(unknowns)
        self._steps = 0

    def direction(self, slope: Vector) -> Vector:
        """[unknowns], each of about 1 where slopes agree."""
        self._steps += 1
        fade, fade_square = self._settings.fade, self._settings.fade_square
        self._mean = fade * self._mean + (1 - fade) * slope
        self._square = fade_square * self._square + (1 - fade_square) * slope**2
        mean = self._mean / (1 - fade**self._steps)
        square = self._square / (1 - fade_square**self._steps)
        return np.asarray(mean / (np.sqrt(square) + 1e-12), dtype=np.float64)
