"""Oracles: transformers' own rotation of Llama and Phi-3, complex multiplication, and the algebra of rope."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.tolerances import TOLERANCE, assert_close
from longrope_vllm.rope import apply_rotary, cos_sin_rows, inverse_frequencies

FACTORS = torch.tensor([1.0, 1.3, 2.0, 5.5, 8.0, 9.0, 20.0, 32.0], dtype=torch.float64)


def states(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def repeated_halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [1, T, 2 P] as transformers hands them to attention."""
    cos, sin = rows.chunk(2, dim=-1)
    return cos.repeat(1, 2)[None], sin.repeat(1, 2)[None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rotation_equals_transformers_llama(dtype: torch.dtype) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    rows = cos_sin_rows(inverse_frequencies(16, 1e4) / FACTORS, 50, attention_factor=1.2, dtype=dtype)
    query, key = states(50, 4, 16, dtype=dtype), states(50, 2, 16, dtype=dtype)
    cos, sin = repeated_halves(rows)
    expected = apply_rotary_pos_emb(query.transpose(0, 1)[None], key.transpose(0, 1)[None], cos, sin)
    for ours, theirs in zip((query, key), expected, strict=True):
        found = apply_rotary(ours, rows)
        assert found.dtype is dtype
        torch.testing.assert_close(found, theirs[0].transpose(0, 1), rtol=TOLERANCE[dtype], atol=4 * TOLERANCE[dtype])


def test_partial_rotation_equals_transformers_phi3() -> None:
    from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

    rows = cos_sin_rows(inverse_frequencies(12, 1e4), 50)
    query = states(50, 4, 16)
    cos, sin = repeated_halves(rows)
    expected, _ = apply_rotary_pos_emb(query.transpose(0, 1)[None], query.transpose(0, 1)[None], cos, sin)
    found = apply_rotary(query, rows)
    assert_close(found, expected[0].transpose(0, 1), computed_in=torch.float32)
    assert torch.equal(found[..., 12:], query[..., 12:])


def test_unit_factors_equal_plain_rope_as_complex_rotation() -> None:
    query = states(200, 2, 16, dtype=torch.float64)
    frequencies = inverse_frequencies(16, 1e4)
    unit = frequencies / torch.ones(8, dtype=torch.float64)
    turned = torch.complex(query[..., :8], query[..., 8:]) * torch.polar(
        torch.ones(200, 8, dtype=torch.float64), torch.arange(200, dtype=torch.float64)[:, None] * frequencies
    ).unsqueeze(1)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    found = apply_rotary(query, cos_sin_rows(unit, 200, dtype=torch.float64))
    assert_close(found, expected, computed_in=torch.float64)


def test_the_norm_is_kept_times_the_attention_factor() -> None:
    query = states(300, 2, 16, dtype=torch.float64)
    rows = cos_sin_rows(inverse_frequencies(16, 1e4) / FACTORS, 300, attention_factor=1.25, dtype=torch.float64)
    assert_close(apply_rotary(query, rows).norm(dim=-1), 1.25 * query.norm(dim=-1), computed_in=torch.float64)


TABLE = cos_sin_rows(inverse_frequencies(16, 1e4) / FACTORS, 8192, attention_factor=1.1, dtype=torch.float64)


@given(
    first=st.integers(0, 4000),
    second=st.integers(0, 4000),
    shift=st.integers(0, 4000),
)
def test_only_the_relative_position_matters_within_a_tier(first: int, second: int, shift: int) -> None:
    query, key = states(2, 1, 16, dtype=torch.float64).unbind(0)

    def score(at_query: int, at_key: int) -> Tensor:
        rotated_query = apply_rotary(query[None], TABLE[at_query][None])
        return (rotated_query * apply_rotary(key[None], TABLE[at_key][None])).sum()

    assert_close(score(first, second), score(first + shift, second + shift), computed_in=torch.float32)


def test_position_zero_is_not_rotated() -> None:
    query = states(1, 3, 16)
    assert torch.equal(apply_rotary(query, cos_sin_rows(inverse_frequencies(16, 1e4), 1)), query)


def test_gradients_flow_and_turn_back() -> None:
    query = states(20, 2, 20, dtype=torch.float64).requires_grad_()
    rows = cos_sin_rows(inverse_frequencies(16, 1e4), 20, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda given: apply_rotary(given, rows), query)
    apply_rotary(query, rows).sum().backward()
    cos, sin = rows.chunk(2, dim=-1)  # a rotation's gradient is the rotation by the negative angle
    backwards = torch.cat((cos, -sin), dim=-1)
    assert query.grad is not None
    assert_close(query.grad, apply_rotary(torch.ones_like(query), backwards), computed_in=torch.float64)
