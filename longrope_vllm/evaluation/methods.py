"""The sets of factors that one evaluation compares, each under its label.

    none, pi, ntk, dynamic-ntk, yarn, ...   a closed form, made anew for each length past the trained window
    32k:yarn,128k:pi                        closed forms by length, as ``--tiers`` takes them
    a file                                  factors.json
    checkpoint                              the tiers that the checkpoint itself states

``none`` is the checkpoint's own rope, at every length: the unextended model.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from longrope_vllm.chosen_factors import parse_tiers
from longrope_vllm.errors import EvaluationError, FactorsError
from longrope_vllm.evaluation.labels import split_label
from longrope_vllm.factors import Factors, Origin, Tier, own_tier
from longrope_vllm.factors_file import read_factors
from longrope_vllm.geometry import Config, Geometry
from longrope_vllm.lengths import format_length
from longrope_vllm.rope import BASELINES
from longrope_vllm.rope_block import check_fits, read_rope_block

NONE = "none"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One set of factors under comparison."""

    label: str
    factors: Factors
    """Tiers from the shortest sequence to the longest length of the evaluation."""
    identity: str
    """What the label stands for, so that a continued evaluation notices another one of the same name."""

    def long_for_all(self) -> "Method":
        """The longest tier for every length, which is how an engine with one rope serves these factors."""
        longest = self.factors.tiers[-1]
        return Method(
            label=f"{self.label}, {format_length(longest.max_length)} for all",
            factors=replace(self.factors, tiers=(longest,)),
            identity=f"{self.identity}, {longest.max_length} for all",
        )


def named_method(name: str, config: Config, *, lengths: Sequence[int]) -> Method:
    """``none``, ``checkpoint``, or a closed form with a tier for each of ``lengths`` past the checkpoint's own.

    Raises ``EvaluationError`` for an unknown name, and the errors of ``Factors`` and ``Geometry``.
    """
    if name == CHECKPOINT:
        stated = read_rope_block(config)
        if stated is None:
            raise EvaluationError(
                f"Expected a checkpoint with a longrope block for the method {CHECKPOINT}, found another rope: name "
                "closed forms or a file of factors."
            )
        return Method(label=CHECKPOINT, factors=stated, identity=CHECKPOINT)
    if name not in (NONE, *BASELINES):
        raise EvaluationError(
            f"Expected methods out of {NONE}, {CHECKPOINT}, {', '.join(m for m in BASELINES if m != NONE)}, "
            f"found {name!r}."
        )
    geometry, own = _own(config)
    if name == NONE:
        plain = replace(own, max_length=max(own.max_length, *lengths))
        return Method(label=NONE, factors=_factors(geometry, (plain,), method=NONE), identity=NONE)
    past = [length for length in sorted(set(lengths)) if length > own.max_length]
    if not past:
        return Method(label=name, factors=_factors(geometry, (own,), method=name), identity=name)
    factors = Factors.from_baselines([(length, name) for length in past], geometry)
    return Method(label=name, factors=factors, identity=name)


def tiers_method(spec: str, config: Config) -> Method:
    """``[LABEL=]LENGTH:METHOD,...``. Raises ``FactorsError``."""
    label, tiers = split_label(spec)
    geometry, _ = _own(config)
    return Method(label=label or tiers, factors=Factors.from_baselines(parse_tiers(tiers), geometry), identity=tiers)


def file_method(spec: str, config: Config) -> Method:
    """``[LABEL=]FILE``; the file's name without ``.json`` is the label. Raises ``FactorsError``."""
    label, path = split_label(spec)
    factors = read_factors(path)
    factors = factors.with_own_tier(check_fits(config, factors))
    digest = hashlib.sha256(repr(factors.tiers).encode()).hexdigest()
    return Method(label=label or Path(path).stem, factors=factors, identity=f"factors of sha256 {digest}")


def check_labels(methods: Sequence[Method]) -> None:
    """Raise ``EvaluationError`` when two are called alike."""
    labels = [method.label for method in methods]
    for label in labels:
        if labels.count(label) > 1:
            raise EvaluationError(
                f"Expected methods by different names, found {label!r} twice: name files and tiers as LABEL=..."
            )


def _own(config: Config) -> tuple[Geometry, Tier]:
    geometry = Geometry.from_config(config)
    if geometry.rope_type == "longrope":
        raise FactorsError(
            "Expected a checkpoint whose own rope is of one kind for closed forms, found a longrope block: evaluate "
            f"its own tiers (--methods {CHECKPOINT}), a file of factors, or the checkpoint without the block."
        )
    return geometry, own_tier(geometry)


def _factors(geometry: Geometry, tiers: tuple[Tier, ...], *, method: str) -> Factors:
    return Factors(
        rotary_dim=geometry.rotary_dim,
        base=geometry.base,
        trained_window=geometry.trained_window,
        tiers=tiers,
        origin=Origin(method=method),
        rope_type=geometry.rope_type,
        rope=geometry.rope,
    )
