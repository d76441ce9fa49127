"""Factors: the tiers of one checkpoint, each the rope of the sequences up to its length.

The type between the stages: search writes it, training and the server read it (``factors_file`` has the file form).
Validated once, on construction; whoever holds a ``Factors`` need not check it again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from longrope_vllm.errors import FactorsError
from longrope_vllm.geometry import Geometry
from longrope_vllm.rope.baselines import BASELINES


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The rope of every sequence of at most ``max_length`` tokens (LongRoPE, arXiv 2402.13753, equation 3)."""

    max_length: int
    factors: tuple[float, ...]
    """Rescale factor of each rotary pair, shape [P]: pair ``i`` turns at ``f_i / factors[i]``."""
    attention_factor: float = 1.0
    """Multiplies cos and sin."""
    start_tokens: int = 0
    """Positions before this one keep the plain angle and magnitude 1."""

    def __post_init__(self) -> None:
        name = f"the tier up to {self.max_length}"
        if self.max_length <= 0:
            raise FactorsError(f"Expected a positive max_length, found {self.max_length} in a tier of the factors.")
        for index, factor in enumerate(self.factors):
            if not (math.isfinite(factor) and factor > 0):
                raise FactorsError(
                    f"Expected finite factors above 0, found {factor} as factor {index} of {name}: "
                    "correct the file or search again."
                )
        if not (math.isfinite(self.attention_factor) and self.attention_factor > 0):
            raise FactorsError(f"Expected a finite attention_factor above 0, found {self.attention_factor} in {name}.")
        if not 0 <= self.start_tokens <= self.max_length:
            raise FactorsError(
                f"Expected start_tokens from 0 to {self.max_length}, found {self.start_tokens} in {name}."
            )

    @property
    def is_plain(self) -> bool:
        """True when this tier is the checkpoint's unscaled rope, magnitude included."""
        return self.attention_factor == 1.0 and all(factor == 1.0 for factor in self.factors)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the factors come from, so that a reader can judge and repeat them."""

    method: str
    """How they were made: a baseline's name, ``search``, or ``checkpoint`` for a rope block found in one."""
    model: str | None = None
    revision: str | None = None
    command: str | None = None
    note: str | None = None
    measurements: Mapping[str, Any] = field(default_factory=dict)
    """Free-form results that speak for these factors (perplexities, seeds, document hashes)."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Tiers in order of length, with the geometry they were made for."""

    rotary_dim: int
    base: float
    trained_window: int
    tiers: tuple[Tier, ...]
    origin: Origin

    def __post_init__(self) -> None:
        if self.rotary_dim <= 0 or self.rotary_dim % 2:
            raise FactorsError(f"Expected an even positive rotary_dim in the factors, found {self.rotary_dim}.")
        if not 1.0 < self.base < math.inf:
            raise FactorsError(f"Expected a finite base above 1 in the factors, found {self.base}.")
        if self.trained_window <= 0:
            raise FactorsError(f"Expected a positive trained_window in the factors, found {self.trained_window}.")
        if not self.tiers:
            raise FactorsError("Expected at least one tier in the factors, found none.")
        for tier in self.tiers:
            if len(tier.factors) != self.rotary_dim // 2:
                raise FactorsError(
                    f"Expected {self.rotary_dim // 2} factors for {self.rotary_dim} rotary dimensions, found "
                    f"{len(tier.factors)} in the tier up to {tier.max_length}."
                )
        for shorter, longer in zip(self.tiers, self.tiers[1:], strict=False):
            if longer.max_length <= shorter.max_length:
                raise FactorsError(
                    f"Expected tiers of growing max_length, found {longer.max_length} after "
                    f"{shorter.max_length}: sort the tiers and remove doubles."
                )

    @classmethod
    def from_baseline(cls, method: str, geometry: Geometry, max_length: int, *, model: str | None = None) -> Self:
        """The plain rope up to the trained window and ``method`` (a key of ``BASELINES``) up to ``max_length``."""
        if method not in BASELINES:
            raise FactorsError(f"Expected a method out of {', '.join(BASELINES)}, found {method!r}.")
        _require_rope_type(geometry, "default")
        if max_length <= geometry.trained_window:
            raise FactorsError(
                f"Expected a length above the trained window of {geometry.trained_window}, found {max_length}: "
                "up to there the checkpoint needs no factors."
            )
        baseline = BASELINES[method](geometry, max_length / geometry.trained_window)
        long = Tier(
            max_length=max_length,
            factors=tuple(baseline.factors.tolist()),
            attention_factor=baseline.attention_factor,
        )
        return cls(
            rotary_dim=geometry.rotary_dim,
            base=geometry.base,
            trained_window=geometry.trained_window,
            tiers=(plain_tier(geometry), long),
            origin=Origin(method=method, model=model),
        )

    @property
    def max_length(self) -> int:
        """The longest sequence these tiers serve, in tokens."""
        return self.tiers[-1].max_length

    def check_fits(self, geometry: Geometry) -> None:
        """Raise ``FactorsError`` unless these factors were made for a rope like ``geometry``."""
        _require_rope_type(geometry, "default", "longrope")
        for name in ("rotary_dim", "base", "trained_window"):
            expected, found = getattr(geometry, name), getattr(self, name)
            if expected != found:
                raise FactorsError(
                    f"Expected factors for {name} {expected} of this checkpoint, found {found} in the factors: "
                    "they belong to another model."
                )

    def with_plain_tier(self) -> Self:
        """These factors with the plain rope up to the trained window in front, when they start above it."""
        if self.tiers[0].max_length <= self.trained_window:
            return self
        plain = Tier(max_length=self.trained_window, factors=(1.0,) * (self.rotary_dim // 2))
        return type(self)(
            rotary_dim=self.rotary_dim,
            base=self.base,
            trained_window=self.trained_window,
            tiers=(plain, *self.tiers),
            origin=self.origin,
        )

    def tier_for(self, length: int) -> Tier:
        """The shortest tier that holds ``length`` tokens. Raises ``FactorsError`` past the last one."""
        for tier in self.tiers:
            if length <= tier.max_length:
                return tier
        raise FactorsError(f"Expected at most {self.max_length} tokens for these factors, found {length}.")


def plain_tier(geometry: Geometry) -> Tier:
    """The checkpoint's own rope up to its trained window."""
    return Tier(max_length=geometry.trained_window, factors=(1.0,) * geometry.pairs)


def _require_rope_type(geometry: Geometry, *known: str) -> None:
    """Factors rescale the unscaled rope: on top of another scaling the short tier would not be the checkpoint's own."""
    if geometry.rope_type not in known:
        raise FactorsError(
            f"Expected a checkpoint of rope type {' or '.join(known)}, found {geometry.rope_type}: factors for other "
            "types are not supported yet."
        )
