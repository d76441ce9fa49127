"""Factors: the tiers of one checkpoint, each the rope of the sequences up to its length.

The type between the stages: search writes it, training and the server read it (``factors_file`` has the file form).
Validated once, on construction; whoever holds a ``Factors`` need not check it again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from longrope_vllm.errors import FactorsError
from longrope_vllm.geometry import Geometry
from longrope_vllm.rope.baselines import BASELINES
from longrope_vllm.rope.own import own_length, own_rope

OWN = "own"
"""Method name of the checkpoint's own rope."""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The rope of every sequence of at most ``max_length`` tokens (LongRoPE, arXiv 2402.13753, equation 3)."""

    max_length: int
    factors: tuple[float, ...]
    """Rescale factor of each rotary pair, shape [P]: pair ``i`` turns at ``f_i / factors[i]``."""
    attention_factor: float = 1.0
    """Multiplies cos and sin."""
    start_tokens: int = 0
    """Positions before this one keep the angle and magnitude of the checkpoint's own rope."""

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
        """True when this tier is the unscaled rope, magnitude included."""
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
    rope_type: str = "default"
    """Rope of the checkpoint these factors were made for; theirs are relative to the unscaled one all the same."""
    rope: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of that rope, as its checkpoint states them."""

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
        """The checkpoint's own rope up to its length and ``method`` (a key of ``BASELINES``) up to ``max_length``."""
        return cls.from_baselines([(max_length, method)], geometry, model=model)

    @classmethod
    def from_baselines(
        cls, methods: Sequence[tuple[int, str]], geometry: Geometry, *, model: str | None = None
    ) -> Self:
        """A tier for each (length, method), and in front the checkpoint's own rope when they start above its length.

        A method is a key of ``BASELINES``, applied to the unscaled rope and the trained window, as a rope block of that
        type would be; or ``own``, the checkpoint's rope as it is. Raises ``FactorsError`` or ``CheckpointError``.
        """
        known = dict.fromkeys(method for _, method in methods)
        rope_type, rope = _source_rope(geometry)
        return cls(
            rotary_dim=geometry.rotary_dim,
            base=geometry.base,
            trained_window=geometry.trained_window,
            tiers=tuple(_method_tier(method, geometry, length) for length, method in methods),
            origin=Origin(method=" and ".join(known), model=model),
            rope_type=rope_type,
            rope=rope,
        ).with_own_tier(own_tier(geometry))

    @property
    def max_length(self) -> int:
        """The longest sequence these tiers serve, in tokens."""
        return self.tiers[-1].max_length

    @property
    def geometry(self) -> Geometry:
        """The rope these factors were made for; head size and declared length are not known and stand for the least."""
        return Geometry(
            head_size=self.rotary_dim,
            rotary_dim=self.rotary_dim,
            base=self.base,
            trained_window=self.trained_window,
            max_positions=self.trained_window,
            rope_type=self.rope_type,
            rope=self.rope,
        )

    def check_fits(self, geometry: Geometry) -> None:
        """Raise ``FactorsError`` unless these factors were made for a rope like ``geometry``."""
        for name in ("rotary_dim", "base", "trained_window"):
            expected, found = getattr(geometry, name), getattr(self, name)
            if expected != found:
                raise FactorsError(
                    f"Expected factors for {name} {expected} of this checkpoint, found {found} in the factors: "
                    "they belong to another model."
                )
        own_rope(geometry)  # refuses a rope that is not supported
        expected_rope, found_rope = _source_rope(geometry), (self.rope_type, dict(self.rope))
        if expected_rope != found_rope:
            raise FactorsError(
                f"Expected factors made for a {_rope_text(*expected_rope)}, found some for a "
                f"{_rope_text(*found_rope)}: they belong to another checkpoint."
            )

    def with_own_tier(self, own: Tier) -> Self:
        """These factors with the checkpoint's ``own`` tier in front, when they start above its length."""
        return self if self.tiers[0].max_length <= own.max_length else replace(self, tiers=(own, *self.tiers))

    def tier_for(self, length: int) -> Tier:
        """The shortest tier that holds ``length`` tokens. Raises ``FactorsError`` past the last one."""
        for tier in self.tiers:
            if length <= tier.max_length:
                return tier
        raise FactorsError(f"Expected at most {self.max_length} tokens for these factors, found {length}.")


def _source_rope(geometry: Geometry) -> tuple[str, dict[str, Any]]:
    """Type and parameters of the rope that factors start from: a longrope block stretches a plain one."""
    return ("default", {}) if geometry.rope_type == "longrope" else (geometry.rope_type, dict(geometry.rope))


def _rope_text(rope_type: str, rope: Mapping[str, Any]) -> str:
    parameters = ", ".join(f"{name} {value}" for name, value in sorted(rope.items()))
    return f"{rope_type} rope" + (f" ({parameters})" if parameters else "")


def own_tier(geometry: Geometry) -> Tier:
    """The checkpoint's own rope up to the length it is for. Raises ``CheckpointError`` for an unknown rope type."""
    return _method_tier(OWN, geometry, own_length(geometry))


def _method_tier(method: str, geometry: Geometry, length: int) -> Tier:
    """The rope of sequences up to ``length`` tokens by ``method``."""
    if method == OWN:
        baseline = own_rope(geometry, length)
        if length > own_length(geometry) and geometry.rope_type != "dynamic":
            raise FactorsError(
                f"Expected a length up to {own_length(geometry)} for the checkpoint's own rope, found {length}: from "
                f"there on it needs a method out of {', '.join(BASELINES)}."
            )
    elif method not in BASELINES:
        raise FactorsError(f"Expected a method out of {OWN}, {', '.join(BASELINES)}, found {method!r}.")
    elif length <= geometry.trained_window and method != "none":
        raise FactorsError(
            f"Expected a length above the trained window of {geometry.trained_window} for {method}, found {length}: up "
            f"to there the checkpoint needs no factors, which is the method {OWN}."
        )
    else:
        baseline = BASELINES[method](geometry, length / geometry.trained_window)
    return Tier(max_length=length, factors=tuple(baseline.factors.tolist()), attention_factor=baseline.attention_factor)
