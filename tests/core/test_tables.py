"""Oracle: mpmath with 40 digits at single positions, and one row computed alone."""

import mpmath
import pytest
import torch

from longrope_vllm.rope import cos_sin_rows, inverse_frequencies

LAST_POSITIONS = [4095, 131_071, 1_048_575, 2_097_151]


def exact_row(
    position: int, rotary_dim: int, base: float, factors: list[float], magnitude: float = 1.0
) -> torch.Tensor:
    """``[cos | sin]`` of one position by mpmath, rounded once to float64."""
    with mpmath.workdps(40):
        angles = [
            position * mpmath.mpf(base) ** (-mpmath.mpf(2 * i) / rotary_dim) / mpmath.mpf(factor)
            for i, factor in enumerate(factors)
        ]
        row = [magnitude * mpmath.cos(angle) for angle in angles] + [magnitude * mpmath.sin(angle) for angle in angles]
        return torch.tensor([float(value) for value in row], dtype=torch.float64)


@pytest.fixture(scope="module")
def two_million_rows() -> torch.Tensor:
    """A table of 2M positions with few pairs, from the fastest to one of a very long context, in float64."""
    frequencies = inverse_frequencies(8, 1e6) / torch.tensor([1.0, 1.1, 64.0, 512.0], dtype=torch.float64)
    return cos_sin_rows(frequencies, 2_097_152, attention_factor=1.2, dtype=torch.float64)


@pytest.mark.parametrize("position", [0, 1, *LAST_POSITIONS])
def test_rows_of_two_million_positions_are_exact(two_million_rows: torch.Tensor, position: int) -> None:
    expected = exact_row(position, 8, 1e6, [1.0, 1.1, 64.0, 512.0], 1.2)
    rounding = 8 * max(position, 1) * 2**-53  # of a float64 product, frequency and factor
    torch.testing.assert_close(two_million_rows[position], expected, rtol=0.0, atol=rounding)


@pytest.mark.parametrize("position", LAST_POSITIONS)
def test_float32_rows_carry_only_the_final_rounding(position: int) -> None:
    frequencies = inverse_frequencies(64, 1e4)
    row = cos_sin_rows(frequencies[:1], position + 1)[position]
    expected = exact_row(position, 64, 1e4, [1.0])
    torch.testing.assert_close(row.double(), expected, rtol=0.0, atol=2**-24)


def test_angles_computed_in_float32_would_fail_the_same_check() -> None:
    position = 2_097_151
    angle = torch.tensor(float(position)) * (inverse_frequencies(64, 1e4)[1]).float()
    error = (angle.cos().double() - exact_row(position, 64, 1e4, [1.0, 1.0])[1]).abs().item()
    assert error > 1e-3


@pytest.mark.parametrize("boundary", [65_536, 131_072])
def test_chunk_boundaries_are_seamless(boundary: int) -> None:
    frequencies = inverse_frequencies(4, 1e4)
    rows = cos_sin_rows(frequencies, boundary + 2, dtype=torch.float64)
    around = range(boundary - 2, boundary + 2)
    expected = torch.stack([exact_row(position, 4, 1e4, [1.0, 1.0]) for position in around])
    torch.testing.assert_close(rows[boundary - 2 : boundary + 2], expected, rtol=0.0, atol=8 * boundary * 2**-53)


@pytest.mark.parametrize("length", [1, 65_535, 65_536, 65_537])
def test_a_table_has_one_row_a_position(length: int) -> None:
    rows = cos_sin_rows(inverse_frequencies(4, 1e4), length)
    assert rows.shape == (length, 4)
    assert torch.isfinite(rows).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_is_cast_at_the_end(dtype: torch.dtype) -> None:
    frequencies = inverse_frequencies(16, 1e4)
    rows = cos_sin_rows(frequencies, 5000, attention_factor=1.19, dtype=dtype)
    assert torch.equal(rows, cos_sin_rows(frequencies, 5000, attention_factor=1.19, dtype=torch.float64).to(dtype))
