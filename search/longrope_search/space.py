"""Which factors a search may try, and how any vector is brought among them.

Everything here is relative to a footing, the rope that the model knows already: the plain one of a pretrained model, or
the factors it was fine-tuned with, which the found ones then multiply (LongRoPE, arXiv 2402.13753, section 3.3).

    longrope     every factor in [1, 1.25 s], not decreasing from pair to pair (section 3.2, table 3)
    longrope2    from a critical pair on factors in [s, 2 s], not decreasing; below it ``lambda_c ** (i / c)``, where
                 the critical pair c is searched as well (LongRoPE2, arXiv 2502.20082, section 3.2)

Legend: ``P`` rotary pairs, ``s`` target length over the footing's length.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from longrope_search.candidate import Candidate
from longrope_vllm.errors import SearchError
from longrope_vllm.factors import Tier
from longrope_vllm.geometry import Geometry
from longrope_vllm.rope import rescaled_inverse_frequencies, wavelengths

Vector = NDArray[np.float64]

SpaceName = Literal["longrope", "longrope2"]
SPACES: tuple[SpaceName, ...] = get_args(SpaceName)

WIDEST = 1.25
"""Largest factor over the scale, for ``longrope``."""
WIDEST_2 = 2.0
"""Likewise for ``longrope2``, whose smallest is the scale itself."""
_PERIODS_SEEN = 10
"""A pair that turns so often in the trained window counts as well trained (LongRoPE2, section 3.2: L / 20 pi)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """Relative factors, and from which pair on they are free."""

    factors: Vector
    """Shape [P]; not decreasing."""
    pivot: int = 0
    """First free pair: 0 in ``longrope``, the critical pair in ``longrope2``."""
    attention_factor: float = 1.0
    origin: str = field(default="")


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """Bounds, grid and footing of one search."""

    name: SpaceName
    footing: Tier
    """What the model knows: found factors multiply its factors."""
    length: int
    """Target, in tokens."""
    smallest: float
    largest: float
    pivots: tuple[int, ...]
    """Pairs from which on factors may be free."""
    step: float
    """Factors are multiples of it, counted from 1; 1e-4 unless asked otherwise, 0.01 in the publication."""
    attention_factor: float
    start_tokens: int
    """Of every candidate, unless another number is asked for."""

    @classmethod
    def of(
        cls,
        name: SpaceName,
        geometry: Geometry,
        footing: Tier,
        *,
        length: int,
        step: float,
        attention_factor: float,
        start_tokens: int = 0,
        largest: float | None = None,
    ) -> Self:
        """The space of ``name`` for sequences up to ``length`` tokens; ``largest`` replaces the published bound."""
        scale = max(1.0, length / footing.max_length)
        if largest is not None and name == "longrope2" and largest < scale:
            raise SearchError(
                f"Expected --largest of {scale:g} or more in longrope2, whose factors begin there, found {largest:g}."
            )
        if name == "longrope":
            smallest, widest = 1.0, WIDEST * scale
        else:
            smallest, widest = scale, WIDEST_2 * scale
        return cls(
            name=name,
            footing=footing,
            length=length,
            smallest=smallest,
            largest=largest or widest,
            pivots=(0,) if name == "longrope" else critical_pairs(geometry, footing),
            step=step,
            attention_factor=attention_factor,
            start_tokens=start_tokens,
        )

    @property
    def pairs(self) -> int:
        """P."""
        return len(self.footing.factors)

    @property
    def scale(self) -> float:
        """s, at least 1."""
        return max(1.0, self.length / self.footing.max_length)

    def projected(self, point: Point) -> Point:
        """The closest point of the space: between the bounds, not decreasing, on the grid.

        Closest in the logarithm, by isotonic regression over the free pairs; the others follow from the first of them.
        """
        bounded = self.bounded(point)
        return replace(point, factors=self._completed(self._on_grid(bounded.factors[point.pivot :]), point.pivot))

    def bounded(self, point: Point) -> Point:
        """As ``projected``, without the grid: where a descent goes on from."""
        free = np.log(point.factors[point.pivot :])
        monotone = isotonic_regression(free).x.clip(math.log(self.smallest), math.log(self.largest))
        return replace(point, factors=self._completed(np.exp(monotone), point.pivot))

    def _on_grid(self, free: Vector) -> Vector:
        steps = np.round((free - 1.0) / self.step)
        low = math.ceil((self.smallest - 1.0) / self.step - 1e-9)
        high = max(low, math.floor((self.largest - 1.0) / self.step + 1e-9))
        return np.asarray(np.round(1.0 + steps.clip(low, high) * self.step, 12), dtype=np.float64)

    def _completed(self, free: Vector, pivot: int) -> Vector:
        """[P] from the free factors [P - pivot]: below the pivot ``lambda_c ** (i / c)`` (LongRoPE2, section 3.2)."""
        below = free[0] ** (np.arange(pivot) / pivot) if pivot else np.empty(0)
        return np.concatenate([below, free])

    def candidate(self, point: Point, *, start_tokens: int | None = None) -> Candidate:
        """What a model is rotated by at ``point``, which is projected before."""
        found = self.projected(point)
        return Candidate(
            factors=tuple((np.asarray(self.footing.factors) * found.factors).tolist()),
            attention_factor=point.attention_factor,
            start_tokens=self.start_tokens if start_tokens is None else start_tokens,
            origin=point.origin,
        )


def critical_pairs(geometry: Geometry, footing: Tier) -> tuple[int, ...]:
    """Pairs from the first whose period exceeds a tenth of the footing's length to the first that exceeds all of it.

    For a plain rope ``ceil((d/2) log_base(L / 20 pi))`` to ``ceil((d/2) log_base(L / 2 pi))`` (LongRoPE2, section 3.2).
    At least pair 1, and at most the last one.
    """
    frequencies = rescaled_inverse_frequencies(geometry.rotary_dim, geometry.base, footing.factors)
    periods = wavelengths(frequencies).numpy()
    first, last = (
        min(max(int((periods < length).sum()), 1), geometry.pairs - 1)
        for length in (footing.max_length / _PERIODS_SEEN, footing.max_length)
    )
    return tuple(range(first, last + 1))
