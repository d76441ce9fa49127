"""A search without a model: engines are driven by a loss that is a formula of the logarithms of the factors."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Batch, Engine, Gradient, Score
from longrope_search.space import Point, Space, SpaceName, Vector
from longrope_vllm import Geometry, Tier

repeatable = settings(deadline=None, derandomize=True)
"""For tests by properties: the same examples in every run."""


def geometry(head_size: int, base: float, window: int, *, rotary_dim: int | None = None) -> Geometry:
    """A plain rope; of a whole head when ``rotary_dim`` is left out."""
    return Geometry(
        head_size=head_size,
        rotary_dim=rotary_dim or head_size,
        base=base,
        trained_window=window,
        max_positions=window,
        rope_type="default",
    )


SMOLLM = geometry(64, 1e5, 8192)
LLAMA3 = geometry(128, 5e5, 8192)
PHI3 = geometry(96, 1e4, 2048)


def plain(rope: Geometry) -> Tier:
    """What a pretrained model with the plain ``rope`` knows."""
    return Tier(max_length=rope.trained_window, factors=(1.0,) * rope.pairs)


def space_of(
    name: SpaceName = "longrope",
    rope: Geometry = SMOLLM,
    *,
    scale: float = 4.0,
    step: float = 1e-4,
    footing: Tier | None = None,
    largest: float | None = None,
    attention_factor: float = 1.1,
    start_tokens: int = 0,
) -> Space:
    """The space of ``scale`` times what the model knows."""
    known = footing or plain(rope)
    return Space.of(
        name,
        rope,
        known,
        length=round(scale * known.max_length),
        step=step,
        attention_factor=attention_factor,
        start_tokens=start_tokens,
        largest=largest,
    )


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """``sum of w_i (log lambda_i - bottom_i) ** 2 + (log m - bottom_m) ** 2``: convex in the logarithms."""

    bottom: Vector
    weights: Vector | float = 1.0
    attention: float = 0.0

    def __call__(self, candidate: Candidate) -> Score:
        """The loss with its exact derivative."""
        away = np.log(np.asarray(candidate.factors)) - self.bottom
        magnitude = float(np.log(candidate.attention_factor)) - self.attention
        slope = Gradient(log_factors=2 * self.weights * away, log_attention_factor=2 * magnitude)
        return Score(loss=float((self.weights * away**2).sum()) + magnitude**2, gradient=slope)


@dataclass(kw_only=True)
class Course:
    """All that an engine asked and was told."""

    batches: list[Batch] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    found: Point

    @property
    def candidates(self) -> list[Candidate]:
        """Every candidate in the order of asking."""
        return [candidate for batch in self.batches for candidate in batch.candidates]


def drive(engine: Engine, loss: Callable[[Candidate], Score]) -> Course:
    """Answer every batch by ``loss``, to the end."""
    batches: list[Batch] = []
    losses: list[list[float]] = []
    try:
        batch = next(engine)
        while True:
            scores = [loss(candidate) for candidate in batch.candidates]
            batches.append(batch)
            losses.append([score.loss for score in scores])
            batch = engine.send(scores)
    except StopIteration as ended:
        return Course(batches=batches, losses=losses, found=ended.value)


def is_in(space: Space, candidate: Candidate) -> bool:
    """Whether the free factors keep the bounds, the order and the grid; of ``longrope2`` with one of its pivots."""
    factors = np.asarray(candidate.factors) / np.asarray(space.footing.factors)
    return any(_fits(space, factors[pivot:]) and _follows(factors, pivot) for pivot in space.pivots)


def _fits(space: Space, free: Vector) -> bool:
    steps = (free - 1.0) / space.step
    return bool(
        np.all(free >= space.smallest - 1e-9)
        and np.all(free <= space.largest + 1e-9)
        and np.all(np.diff(free) >= -1e-9)
        and np.allclose(steps, np.round(steps), rtol=0, atol=1e-6)
    )


def _follows(factors: Vector, pivot: int) -> bool:
    below = [factors[pivot] ** (pair / pivot) for pair in range(pivot)]
    return bool(np.allclose(factors[:pivot], below, rtol=1e-12))
