"""Closed-form ways to stretch a rope, each as a vector of rescale factors and an attention factor.

In: a ``Geometry`` and a scale ``s`` (target length over trained window ``L``). Out: factors ``lambda_i`` of shape
[P] in float64, so that pair ``i`` turns at ``f_i / lambda_i``, and the factor that multiplies cos and sin.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from longrope_vllm.geometry import Geometry
from longrope_vllm.rope.attention_factor import yarn_attention_factor
from longrope_vllm.rope.frequencies import inverse_frequencies, wavelengths


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Rescale factors, shape [P], float64, and the attention factor that belongs to them."""

    factors: Tensor
    attention_factor: float = 1.0


def _pair_index(geometry: Geometry) -> Tensor:
    return torch.arange(geometry.pairs, dtype=torch.float64)


def unscaled(geometry: Geometry, scale: float = 1.0) -> Baseline:
    """The checkpoint's own rope at any length: every factor is 1."""
    return Baseline(factors=torch.ones(geometry.pairs, dtype=torch.float64))


def position_interpolation(geometry: Geometry, scale: float) -> Baseline:
    """PI: every pair slowed by ``s`` (arXiv 2306.15595, equation 4)."""
    return Baseline(factors=torch.full((geometry.pairs,), float(scale), dtype=torch.float64))


def ntk_aware(geometry: Geometry, scale: float) -> Baseline:
    """NTK-aware: ``s ** (2 i / (d - 2))``; the first pair is kept, the last slowed by ``s`` (YaRN, appendix A.1)."""
    return Baseline(factors=scale ** (2 * _pair_index(geometry) / (geometry.rotary_dim - 2)))


def dynamic_ntk(geometry: Geometry, scale: float, *, length: int | None = None) -> Baseline:
    """NTK-aware with its scale recomputed for a sequence of ``length`` tokens (default: the target ``s * L``).

    The effective scale is ``s * length / L - (s - 1)``, and 1 up to the trained window (the published rule).
    """
    reached = (length or round(scale * geometry.trained_window)) / geometry.trained_window
    return ntk_aware(geometry, max(1.0, scale * reached - (scale - 1.0)))


def base_change(geometry: Geometry, new_base: float) -> Baseline:
    """ABF: the rope base replaced by ``new_base``: ``(base' / base) ** (2 i / d)`` (arXiv 2309.16039)."""
    return Baseline(factors=(new_base / geometry.base) ** (2 * _pair_index(geometry) / geometry.rotary_dim))


def _correction_dimension(geometry: Geometry, rotations: float) -> float:
    """Pair that turns ``rotations`` times within the trained window (YaRN, section 3.2)."""
    turns = math.log(geometry.trained_window / (rotations * 2 * math.pi))
    return geometry.rotary_dim * turns / (2 * math.log(geometry.base))


def ntk_by_parts(
    geometry: Geometry, scale: float, *, beta_fast: float = 32.0, beta_slow: float = 1.0, whole_pairs: bool = True
) -> Baseline:
    """NTK-by-parts: fast pairs kept, slow pairs slowed by ``s``, in between mixed by frequency (YaRN, section 3.2).

    The mix is linear in the pair index between whole pairs (or not rounded to whole ones), as in the published code
    and the engines; the paper's text has it linear in the number of turns.
    """
    low, high = _correction_dimension(geometry, beta_fast), _correction_dimension(geometry, beta_slow)
    if whole_pairs:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, geometry.rotary_dim - 1)
    ramp = ((_pair_index(geometry) - low) / max(high - low, 1e-3)).clamp(0.0, 1.0)
    kept = 1.0 - ramp
    return Baseline(factors=1.0 / ((1.0 - kept) / scale + kept))


def yarn(geometry: Geometry, scale: float, *, beta_fast: float = 32.0, beta_slow: float = 1.0) -> Baseline:
    """YaRN: NTK-by-parts with the attention factor ``0.1 ln s + 1`` (arXiv 2309.00071)."""
    parts = ntk_by_parts(geometry, scale, beta_fast=beta_fast, beta_slow=beta_slow)
    return Baseline(factors=parts.factors, attention_factor=yarn_attention_factor(scale))


def llama3(
    geometry: Geometry, scale: float, *, low_freq_factor: float = 1.0, high_freq_factor: float = 4.0
) -> Baseline:
    """Llama 3.1: by wavelength, kept below ``L / high``, slowed by ``s`` above ``L / low``, smooth in between."""
    window = geometry.trained_window
    waves = wavelengths(inverse_frequencies(geometry.rotary_dim, geometry.base))
    kept = ((window / waves - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0)
    return Baseline(factors=1.0 / ((1.0 - kept) / scale + kept))


BASELINES: MappingProxyType[str, Callable[[Geometry, float], Baseline]] = MappingProxyType(
    {
        "none": unscaled,
        "pi": position_interpolation,
        "ntk": ntk_aware,
        "ntk-by-parts": ntk_by_parts,
        "yarn": yarn,
        "dynamic-ntk": dynamic_ntk,
        # Reaching scale s with a new base: the slowest pair is slowed by s, as NTK-aware derives it.
        "abf": lambda geometry, scale: base_change(
            geometry, geometry.base * scale ** (geometry.rotary_dim / (geometry.rotary_dim - 2))
        ),
        "llama3": llama3,
    }
)
"""Name to method, each taking (geometry, scale) with its published defaults."""
