"""Oracles: transformers' ``ROPE_INIT_FUNCTIONS``, vLLM's rotary classes, and the papers' formulas in mpmath.

transformers and vLLM compute in float32, this project in float64, so the tolerance is float32's. Where their
definitions differ from ours the test says so and converts.
"""

import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from core.tolerances import assert_relatively_close
from longrope_vllm import Geometry
from longrope_vllm.rope import (
    BASELINES,
    inverse_frequencies,
    longrope_attention_factor,
    rescaled_inverse_frequencies,
    yarn_attention_factor,
)
from longrope_vllm.rope.baselines import Baseline, base_change, dynamic_ntk, llama3, ntk_aware, ntk_by_parts, yarn


def geometry_of(head_size: int, rotary_dim: int, base: float, window: int) -> Geometry:
    return Geometry(
        head_size=head_size,
        rotary_dim=rotary_dim,
        base=base,
        trained_window=window,
        max_positions=window,
        rope_type="default",
    )


GEOMETRIES = [
    geometry_of(64, 64, 1e4, 2048),
    geometry_of(64, 64, 1e5, 8192),
    geometry_of(128, 128, 1e4, 4096),
    geometry_of(128, 128, 5e5, 8192),
    geometry_of(128, 96, 1e4, 4096),
]
SCALES = [2.0, 8.0, 32.0, 512.0]

each_geometry = pytest.mark.parametrize(
    "geometry", GEOMETRIES, ids=lambda geometry: f"{geometry.rotary_dim}-of-{geometry.head_size}-{geometry.base:g}"
)
each_scale = pytest.mark.parametrize("scale", SCALES)


def frequencies_of(geometry: Geometry, baseline: Baseline) -> Tensor:
    return rescaled_inverse_frequencies(geometry.rotary_dim, geometry.base, baseline.factors)


def transformers_rope(geometry: Geometry, seq_len: int | None = None, **block: Any) -> tuple[Tensor, float]:
    """Inverse frequencies and attention factor that transformers computes for this rope block."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stretched = block["rope_type"] in ("yarn", "llama3", "longrope")
    length = round(geometry.trained_window * block.get("factor", 1.0)) if stretched else geometry.trained_window
    config = LlamaConfig(
        hidden_size=4 * geometry.head_size,
        num_attention_heads=4,
        head_dim=geometry.head_size,
        max_position_embeddings=length,
        rope_parameters={
            "rope_theta": geometry.base,
            "partial_rotary_factor": geometry.rotary_dim / geometry.head_size,
            **({"original_max_position_embeddings": geometry.trained_window} if stretched else {}),
            **block,
        },
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[block["rope_type"]](config, seq_len=seq_len)
    return frequencies, float(factor)


@pytest.fixture(scope="module")
def vllm_rotary() -> Iterator[ModuleType]:
    """vLLM's rotary classes, which want a current configuration while they are made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports use deprecated parts of torch
        pytest.importorskip("vllm")
        from vllm.config import VllmConfig, set_current_vllm_config
        from vllm.model_executor.layers import rotary_embedding

        with set_current_vllm_config(VllmConfig()):
            yield rotary_embedding


def vllm_rope(module: ModuleType, geometry: Geometry, max_position: int | None = None, **block: Any) -> Any:
    return module.get_rope(
        geometry.head_size,
        max_position or geometry.trained_window,
        rope_parameters={
            "rope_theta": geometry.base,
            "partial_rotary_factor": geometry.rotary_dim / geometry.head_size,
            **block,
        },
        dtype=torch.float32,
    )


def exact_factors(geometry: Geometry, factor_of_pair: Any) -> Tensor:
    with mpmath.workdps(40):
        exact = [float(factor_of_pair(mpmath.mpf(i))) for i in range(geometry.pairs)]
    return torch.tensor(exact, dtype=torch.float64)


# transformers


@each_geometry
@each_scale
def test_position_interpolation_equals_transformers_linear(geometry: Geometry, scale: float) -> None:
    baseline = BASELINES["pi"](geometry, scale)
    expected, factor = transformers_rope(geometry, rope_type="linear", factor=scale)
    assert_relatively_close(frequencies_of(geometry, baseline), expected, computed_in=torch.float32)
    assert baseline.attention_factor == factor


@each_geometry
@each_scale
def test_ntk_aware_equals_transformers_dynamic_without_its_extra_stretch(geometry: Geometry, scale: float) -> None:
    """With factor 1 the dynamic rule stretches by exactly length / window, which is NTK-aware at that scale."""
    length = round(scale * geometry.trained_window)
    expected, _ = transformers_rope(geometry, length, rope_type="dynamic", factor=1.0)
    found = frequencies_of(geometry, BASELINES["ntk"](geometry, scale))
    assert_relatively_close(found, expected, computed_in=torch.float32)


@each_geometry
@each_scale
@pytest.mark.parametrize("reached", [0.5, 1.0, 1.7, 4.0])
def test_dynamic_ntk_equals_transformers_dynamic(geometry: Geometry, scale: float, reached: float) -> None:
    length = round(reached * geometry.trained_window)
    expected, factor = transformers_rope(geometry, length, rope_type="dynamic", factor=scale)
    baseline = dynamic_ntk(geometry, scale, length=length)
    assert_relatively_close(frequencies_of(geometry, baseline), expected, computed_in=torch.float32)
    assert baseline.attention_factor == factor


def test_dynamic_ntk_without_a_length_is_the_one_of_the_target() -> None:
    geometry = GEOMETRIES[0]
    assert torch.equal(
        dynamic_ntk(geometry, 8.0).factors, dynamic_ntk(geometry, 8.0, length=8 * geometry.trained_window).factors
    )


@each_geometry
@each_scale
def test_yarn_equals_transformers_frequencies_and_attention_factor(geometry: Geometry, scale: float) -> None:
    baseline = BASELINES["yarn"](geometry, scale)
    expected, factor = transformers_rope(geometry, rope_type="yarn", factor=scale)
    assert_relatively_close(frequencies_of(geometry, baseline), expected, computed_in=torch.float32)
    assert baseline.attention_factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(("fast", "slow"), [(64.0, 2.0), (16.0, 0.5), (4.0, 4.0)])
def test_yarn_with_other_betas_equals_transformers(fast: float, slow: float) -> None:
    geometry = GEOMETRIES[2]
    expected, _ = transformers_rope(geometry, rope_type="yarn", factor=8.0, beta_fast=fast, beta_slow=slow)
    baseline = yarn(geometry, 8.0, beta_fast=fast, beta_slow=slow)
    assert_relatively_close(frequencies_of(geometry, baseline), expected, computed_in=torch.float32)


def test_yarn_truncates_the_correction_range_as_transformers_does_by_default() -> None:
    """transformers can also leave the range untruncated, which gives other frequencies; its default is ours."""
    geometry = GEOMETRIES[2]
    found = frequencies_of(geometry, yarn(geometry, 8.0))
    untruncated, _ = transformers_rope(geometry, rope_type="yarn", factor=8.0, truncate=False)
    assert (found / untruncated - 1).abs().max() > 1e-2


@each_geometry
@each_scale
def test_ntk_by_parts_is_yarn_without_attention_factor(geometry: Geometry, scale: float) -> None:
    expected, factor = transformers_rope(geometry, rope_type="yarn", factor=scale, attention_factor=1.0)
    baseline = BASELINES["ntk-by-parts"](geometry, scale)
    assert_relatively_close(frequencies_of(geometry, baseline), expected, computed_in=torch.float32)
    assert baseline.attention_factor == factor == 1.0


@each_geometry
@each_scale
def test_llama3_equals_transformers(geometry: Geometry, scale: float) -> None:
    baseline = BASELINES["llama3"](geometry, scale)
    expected, factor = transformers_rope(
        geometry, rope_type="llama3", factor=scale, low_freq_factor=1.0, high_freq_factor=4.0
    )
    assert_relatively_close(frequencies_of(geometry, baseline), expected, computed_in=torch.float32)
    assert baseline.attention_factor == factor


@pytest.mark.parametrize(("low", "high"), [(0.5, 8.0), (2.0, 3.0)])
def test_llama3_with_other_bounds_equals_transformers(low: float, high: float) -> None:
    geometry = GEOMETRIES[3]
    expected, _ = transformers_rope(
        geometry, rope_type="llama3", factor=16.0, low_freq_factor=low, high_freq_factor=high
    )
    baseline = llama3(geometry, 16.0, low_freq_factor=low, high_freq_factor=high)
    assert_relatively_close(frequencies_of(geometry, baseline), expected, computed_in=torch.float32)


@each_geometry
@each_scale
@pytest.mark.parametrize("method", BASELINES)
def test_transformers_longrope_turns_any_baseline_alike(geometry: Geometry, scale: float, method: str) -> None:
    """The factors mean in transformers' longrope what they mean here: pair i turns at f_i / factor_i."""
    baseline = BASELINES[method](geometry, scale)
    expected, factor = transformers_rope(
        geometry,
        geometry.trained_window + 1,
        rope_type="longrope",
        factor=scale,
        short_factor=[1.0] * geometry.pairs,
        long_factor=baseline.factors.tolist(),
    )
    assert_relatively_close(frequencies_of(geometry, baseline), expected, computed_in=torch.float32)
    assert longrope_attention_factor(scale, geometry.trained_window) == pytest.approx(factor, rel=1e-12)


# vLLM


@each_geometry
@pytest.mark.parametrize("scale", SCALES[:3])
def test_yarn_equals_vllm(vllm_rotary: ModuleType, geometry: Geometry, scale: float) -> None:
    theirs = vllm_rope(
        vllm_rotary,
        geometry,
        rope_type="yarn",
        factor=scale,
        original_max_position_embeddings=geometry.trained_window,
    )
    baseline = BASELINES["yarn"](geometry, scale)
    assert_relatively_close(
        frequencies_of(geometry, baseline), theirs._compute_inv_freq(scale), computed_in=torch.float32
    )
    assert baseline.attention_factor == pytest.approx(theirs.mscale, rel=1e-12)


@each_geometry
@each_scale
def test_llama3_equals_vllm(vllm_rotary: ModuleType, geometry: Geometry, scale: float) -> None:
    theirs = vllm_rope(
        vllm_rotary,
        geometry,
        rope_type="llama3",
        factor=scale,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=geometry.trained_window,
    )
    found = frequencies_of(geometry, BASELINES["llama3"](geometry, scale))
    assert_relatively_close(found, theirs._compute_inv_freq(geometry.base), computed_in=torch.float32)


@each_geometry
@each_scale
def test_vllm_ntk_is_ours_read_one_pair_later_in_its_own_exponent(
    vllm_rotary: ModuleType, geometry: Geometry, scale: float
) -> None:
    """vLLM's "ntk" is another published variant: ``s ** (2 (i + 1) / d)``. Both slow the last pair by ``s``."""
    theirs = vllm_rope(vllm_rotary, geometry, rope_type="ntk", factor=scale)._compute_inv_freq(geometry.base)
    plain = inverse_frequencies(geometry.rotary_dim, geometry.base)
    last = geometry.rotary_dim - 2
    ours = BASELINES["ntk"](geometry, scale).factors
    converted = ours ** (last / geometry.rotary_dim) * scale ** (2 / geometry.rotary_dim)
    assert_relatively_close(plain / theirs, converted, computed_in=torch.float32)
    assert_relatively_close((plain / theirs)[-1], ours[-1], computed_in=torch.float32)


@each_geometry
@pytest.mark.parametrize("scale", SCALES[:2])
def test_dynamic_ntk_equals_the_table_of_vllm(vllm_rotary: ModuleType, geometry: Geometry, scale: float) -> None:
    """Read from the first rows of vLLM's table: at position 1 the angle is the frequency."""
    length = round(scale * geometry.trained_window)
    theirs = vllm_rotary.DynamicNTKScalingRotaryEmbedding(
        geometry.head_size,
        geometry.rotary_dim,
        length,
        geometry.trained_window,
        geometry.base,
        True,
        scale,
        torch.float32,
    )
    cos, sin = theirs.cos_sin_cache[1].chunk(2)
    found = frequencies_of(geometry, dynamic_ntk(geometry, scale, length=length))
    assert_relatively_close(found, torch.atan2(sin, cos), computed_in=torch.float32)


@each_geometry
@pytest.mark.parametrize("scale", SCALES[:2])
def test_position_interpolation_equals_the_table_of_vllm(
    vllm_rotary: ModuleType, geometry: Geometry, scale: float
) -> None:
    theirs = vllm_rope(vllm_rotary, geometry, rope_type="linear", factor=scale)
    cos, sin = theirs.cos_sin_cache[1].chunk(2)
    found = frequencies_of(geometry, BASELINES["pi"](geometry, scale))
    assert_relatively_close(found, torch.atan2(sin, cos), computed_in=torch.float32)


# papers


@each_geometry
@each_scale
def test_ntk_aware_equals_the_formula(geometry: Geometry, scale: float) -> None:
    """A base multiplied by ``s ** (d / (d - 2))`` (YaRN, appendix A.1), divided out pair by pair."""
    d = geometry.rotary_dim

    def factor(i: mpmath.mpf) -> mpmath.mpf:
        base = mpmath.mpf(geometry.base)
        new_base = base * mpmath.mpf(scale) ** (mpmath.mpf(d) / (d - 2))
        return base ** (-2 * i / d) / new_base ** (-2 * i / d)

    assert_relatively_close(
        ntk_aware(geometry, scale).factors, exact_factors(geometry, factor), computed_in=torch.float64
    )


@each_geometry
@pytest.mark.parametrize("new_base", [5e5, 1e6, 1e7])
def test_base_change_equals_a_rope_of_the_new_base(geometry: Geometry, new_base: float) -> None:
    found = frequencies_of(geometry, base_change(geometry, new_base))
    d = geometry.rotary_dim
    exact = exact_factors(geometry, lambda i: mpmath.mpf(new_base) ** (-2 * i / d))
    assert_relatively_close(found, exact, computed_in=torch.float64)


@each_geometry
@each_scale
def test_abf_by_scale_slows_the_last_pair_by_the_scale(geometry: Geometry, scale: float) -> None:
    factors = BASELINES["abf"](geometry, scale).factors
    assert factors[0] == 1.0
    assert_relatively_close(factors[-1], torch.tensor(scale), computed_in=torch.float64)
    assert_relatively_close(factors, ntk_aware(geometry, scale).factors, computed_in=torch.float64)


@each_geometry
def test_ntk_by_parts_keeps_fast_pairs_and_slows_slow_ones(geometry: Geometry) -> None:
    """Pairs that turn more than 32 times in the window are kept, those that turn less than once are slowed by s."""
    factors = ntk_by_parts(geometry, 16.0).factors
    turns = geometry.trained_window * inverse_frequencies(geometry.rotary_dim, geometry.base) / (2 * float(mpmath.pi))
    last_kept = int((turns >= 32).sum()) - 1
    first_slow = int((turns > 1).sum()) + 1  # the published code truncates the range to whole pairs
    assert (factors[:last_kept] == 1.0).all()
    assert_relatively_close(
        factors[first_slow:], torch.full((geometry.pairs - first_slow,), 16.0), computed_in=torch.float64
    )
    assert (factors.diff() >= 0).all()


@pytest.mark.parametrize("method", BASELINES)
@each_geometry
def test_scale_one_changes_nothing(geometry: Geometry, method: str) -> None:
    baseline = BASELINES[method](geometry, 1.0)
    assert_relatively_close(baseline.factors, torch.ones(geometry.pairs), computed_in=torch.float64)
    assert baseline.attention_factor == 1.0


@pytest.mark.parametrize("method", BASELINES)
@each_geometry
@each_scale
def test_every_baseline_has_one_float64_factor_a_pair(geometry: Geometry, method: str, scale: float) -> None:
    factors = BASELINES[method](geometry, scale).factors
    assert factors.shape == (geometry.pairs,)
    assert factors.dtype is torch.float64
    assert (factors > 0).all()


@pytest.mark.parametrize(
    ("window", "scale", "expected"),
    [(4096, 8, 1.118034), (4096, 32, 1.190238), (4096, 512, 1.322876), (8192, 16, 1.143544), (4096, 1, 1.0)],
)
def test_attention_factor_equals_the_numbers_of_released_checkpoints(
    window: int, scale: float, expected: float
) -> None:
    assert longrope_attention_factor(scale, window) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_a_rope_that_is_not_stretched_keeps_its_magnitude(scale: float) -> None:
    assert longrope_attention_factor(scale, 4096) == 1.0
    assert yarn_attention_factor(scale) == 1.0


def test_yarn_attention_factor_equals_the_formula() -> None:
    assert yarn_attention_factor(16.0) == pytest.approx(float(mpmath.log(16) / 10 + 1), rel=1e-15)
