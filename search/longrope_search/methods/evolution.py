"""LongRoPE's evolution search (arXiv 2402.13753, algorithm 1), with its published settings.

A population of 64 begins with PI, NTK and YaRN and mutants of them. Each of 40 iterations keeps the best 32 as parents
and makes 16 mutants and 16 crossovers of them: 1,344 evaluations. Elitist: a parent leaves only for a better one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np

from longrope_search.methods.engine import Batch, Engine, Scores
from longrope_search.space import Point, Space

_TRIES = 100  # to make a child that was not there before; a narrow space has only so many
HALF_FROM = 512 * 1024
"""Target lengths above it are searched with half the population, as published."""


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """Settings of the publication (section 3.2, appendix A.1)."""

    population: int = 64
    iterations: int = 40
    parents: int = 32
    mutants: int = 16
    crossovers: int = 16
    mutation_probability: float = 0.3
    patience: int | None = None
    """Iterations without a better best after which the search ends; None never does."""

    @classmethod
    def for_length(
        cls, length: int, *, population: int | None = None, iterations: int | None = None, patience: int | None = None
    ) -> Self:
        """The published settings for ``length``, or another population with parents and children in proportion."""
        size = population or (32 if length > HALF_FROM else 64)
        return cls(
            population=size,
            iterations=cls.iterations if iterations is None else iterations,
            parents=max(2, size // 2),
            mutants=max(1, size // 4),
            crossovers=max(1, size // 4),
            patience=patience,
        )

    @property
    def evaluations(self) -> int:
        """Candidates in all."""
        return self.population + self.iterations * (self.mutants + self.crossovers)


def evolution(space: Space, seeds: Sequence[Point], settings: EvolutionSettings, draw: np.random.Generator) -> Engine:
    """Search ``space`` from ``seeds``."""
    new = _New(space)
    first = [new.point(partial(_same, seed)) for seed in seeds[: settings.population]]
    for index in range(settings.population - len(first)):
        first.append(new.point(partial(mutant, first[index % len(seeds)], space, settings, draw)))
    scores = yield Batch(candidates=[space.candidate(point) for point in first], keep=settings.parents, title="seeds")
    parents = sorted(_whole(scores, first, made=0))[: settings.parents]
    made = len(first)
    stale = 0
    for iteration in range(1, settings.iterations + 1):
        points = [point for _, _, point in parents]
        children = [new.point(partial(_mutant_of_one, points, space, settings, draw)) for _ in range(settings.mutants)]
        children += [new.point(partial(_crossover_of_two, points, space, draw)) for _ in range(settings.crossovers)]
        scores = yield Batch(
            candidates=[space.candidate(child) for child in children],
            keep=settings.parents,
            rivals=[space.candidate(point) for point in points],
            title=f"iteration {iteration} of {settings.iterations}",
        )
        best = parents[0][0]
        parents = sorted([*parents, *_whole(scores, children, made=made)])[: settings.parents]
        made += len(children)
        stale = 0 if parents[0][0] < best else stale + 1
        if settings.patience is not None and stale >= settings.patience:
            break
    return parents[0][2]


def _whole(scores: Scores, points: Sequence[Point], *, made: int) -> Iterator[tuple[float, int, Point]]:
    """Loss, number and point of those scored on every passage.

    A pruned one never becomes a parent: all that is known of it is an estimate, and later ones could not be compared
    with it on the passages it was not scored on.
    """
    for number, (score, point) in enumerate(zip(scores, points, strict=True), start=made):
        if not score.pruned:
            yield score.loss, number, point


def mutant(parent: Point, space: Space, settings: EvolutionSettings, draw: np.random.Generator) -> Point:
    """``parent`` with each free factor redrawn between its neighbours with probability 0.3, one after the other.

    In ``longrope2`` the critical pair is redrawn with the same probability.
    """
    pivot, factors = parent.pivot, parent.factors.copy()
    if len(space.pivots) > 1 and draw.random() < settings.mutation_probability:
        pivot = int(draw.choice(space.pivots))
        factors[pivot:] = factors[pivot:].clip(space.smallest)
    for pair in range(pivot, space.pairs):
        if draw.random() < settings.mutation_probability:
            low = factors[pair - 1] if pair > pivot else space.smallest
            high = factors[pair + 1] if pair + 1 < space.pairs else space.largest
            factors[pair] = draw.uniform(low, max(low, high))
    return space.projected(replace(parent, factors=factors, pivot=pivot, origin="mutant"))


def crossover(one: Point, other: Point, space: Space, draw: np.random.Generator) -> Point:
    """Each factor from one of two parents by the toss of a coin, then made monotone again."""
    factors = np.where(draw.random(space.pairs) < 0.5, one.factors, other.factors)
    pivot = one.pivot if draw.random() < 0.5 else other.pivot
    factors[pivot:] = factors[pivot:].clip(space.smallest)
    return space.projected(replace(one, factors=factors, pivot=pivot, origin="crossover"))


class _New:
    """Points that a search has not tried yet."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._tried: set[str] = set()

    def point(self, make: Callable[[], Point]) -> Point:
        """The first new one that ``make`` gives, or after many that were not new the last."""
        for _ in range(_TRIES):
            found = make()
            key = self._space.candidate(found).key
            if key not in self._tried:
                break
        self._tried.add(key)
        return found


def _same(point: Point) -> Point:
    return point


def _mutant_of_one(
    points: Sequence[Point], space: Space, settings: EvolutionSettings, draw: np.random.Generator
) -> Point:
    return mutant(points[int(draw.integers(len(points)))], space, settings, draw)


def _crossover_of_two(points: Sequence[Point], space: Space, draw: np.random.Generator) -> Point:
    first, second = draw.choice(len(points), size=2, replace=False)
    return crossover(points[first], points[second], space, draw)
