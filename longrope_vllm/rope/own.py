"""The rope a checkpoint states for itself, whatever its type, as factors relative to the unscaled rope.

In: a ``Geometry``. Out: a ``Baseline``, and the length it is meant for. The types are those of transformers and vLLM;
where the two read a block differently vLLM is followed, because its answers are the ones to keep.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from longrope_vllm.errors import CheckpointError
from longrope_vllm.geometry import Config, Geometry, positive_number
from longrope_vllm.rope.attention_factor import longrope_attention_factor, yarn_attention_factor
from longrope_vllm.rope.baselines import (
    Baseline,
    dynamic_ntk,
    llama3,
    ntk_by_parts,
    position_interpolation,
    unscaled,
)


def own_rope(geometry: Geometry, length: int | None = None) -> Baseline:
    """The rope as the checkpoint states it. ``length`` matters for ``dynamic`` alone, which depends on it.

    A longrope block states two: its short factors. Raises ``CheckpointError`` for a type that is not known, or a
    field that its formula here does not have.
    """
    if geometry.rope_type not in _TYPES:
        raise CheckpointError(
            f"Expected a rope of type {', '.join(_TYPES)} in config.json, found {geometry.rope_type}: not supported."
        )
    fields, formula = _TYPES[geometry.rope_type]
    unknown = sorted(set(geometry.rope) - set(fields))
    if "mrope_section" in unknown:
        raise CheckpointError(
            "Expected one position a token, found a multimodal rope (mrope_section in the rope block of config.json): "
            "M-RoPE models are not supported."
        )
    if unknown:
        raise CheckpointError(
            f"Expected only {', '.join(fields) or 'no parameters'} in a rope block of type {geometry.rope_type}, found "
            f"{', '.join(unknown)}: serving it without would be another rope."
        )
    return formula(geometry, length)


def own_length(geometry: Geometry) -> int:
    """Tokens that the checkpoint's own rope is meant for.

    ``linear`` and ``yarn``: the trained window times their factor, whatever length is declared beside them (vLLM
    multiplies it for the first and, from 0.32 on, takes it as it is for the second). ``dynamic`` is unscaled up to its
    trained window, which is where its tiers begin.
    """
    if geometry.rope_type in ("linear", "yarn"):
        return int(geometry.trained_window * required_number("factor", geometry.rope))
    return geometry.max_positions if geometry.rope_type == "llama3" else geometry.trained_window


def longrope_rope(geometry: Geometry, which: Literal["short", "long"]) -> Baseline:
    """One of the two ropes of a longrope block.

    Magnitude: ``short_mscale`` / ``long_mscale`` where stated, else ``attention_factor``, else
    ``sqrt(1 + ln s / ln L)``, as the engines do. Raises ``CheckpointError``.
    """
    rope = geometry.rope
    scale = positive_number("factor", rope, default=geometry.max_positions / geometry.trained_window)
    derived = longrope_attention_factor(scale, geometry.trained_window)
    common = positive_number("attention_factor", rope, default=derived)
    return Baseline(
        factors=torch.tensor(_factor_list(rope, f"{which}_factor"), dtype=torch.float64),
        attention_factor=positive_number(f"{which}_mscale", rope, default=common),
    )


def required_number(field: str, rope: Config) -> float:
    """The number above 0 that ``rope`` must state. Raises ``CheckpointError``."""
    if field not in rope:
        raise CheckpointError(f"Expected {field} in the rope block of config.json, found none.")
    return positive_number(field, rope, default=0.0)


def _default(geometry: Geometry, length: int | None) -> Baseline:
    return unscaled(geometry)


def _linear(geometry: Geometry, length: int | None) -> Baseline:
    return position_interpolation(geometry, required_number("factor", geometry.rope))


def _dynamic(geometry: Geometry, length: int | None) -> Baseline:
    factor = required_number("factor", geometry.rope)
    return dynamic_ntk(geometry, factor, length=length or geometry.trained_window)


def _llama3(geometry: Geometry, length: int | None) -> Baseline:
    return llama3(
        geometry,
        required_number("factor", geometry.rope),
        low_freq_factor=required_number("low_freq_factor", geometry.rope),
        high_freq_factor=required_number("high_freq_factor", geometry.rope),
    )


def _yarn(geometry: Geometry, length: int | None) -> Baseline:
    rope = geometry.rope
    scale = required_number("factor", rope)
    parts = ntk_by_parts(
        geometry,
        scale,
        beta_fast=positive_number("beta_fast", rope, default=32.0),
        beta_slow=positive_number("beta_slow", rope, default=1.0),
        whole_pairs=bool(rope.get("truncate", True)),
    )
    if "attention_factor" in rope:
        magnitude = required_number("attention_factor", rope)
    elif rope.get("mscale") and rope.get("mscale_all_dim"):
        numerator, denominator = (
            yarn_attention_factor(scale, weight=required_number(name, rope)) for name in ("mscale", "mscale_all_dim")
        )
        magnitude = numerator / denominator
    else:
        magnitude = yarn_attention_factor(scale)
    return Baseline(factors=parts.factors, attention_factor=magnitude)


def _longrope(geometry: Geometry, length: int | None) -> Baseline:
    return longrope_rope(geometry, "short")


_TYPES: Mapping[str, tuple[tuple[str, ...], Callable[[Geometry, int | None], Baseline]]] = {
    "default": ((), _default),
    "linear": (("factor",), _linear),
    "dynamic": (("factor",), _dynamic),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), _llama3),
    "yarn": (
        ("factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
        _yarn,
    ),
    "longrope": (
        ("factor", "attention_factor", "short_factor", "long_factor", "short_mscale", "long_mscale"),
        _longrope,
    ),
}
"""Rope type to the parameters its block may state and its formula."""


def _factor_list(rope: Mapping[str, Any], field: str) -> tuple[float, ...]:
    values = rope.get(field)
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max) for value in values
    ):
        raise CheckpointError(f"Expected a list of numbers as {field} of the rope block, found {values!s:.200}.")
    return tuple(float(value) for value in values)
