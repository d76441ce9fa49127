"""Oracle: mpmath with 40 digits, and the numbers printed in the papers."""

import mpmath
import pytest
import torch

from core.tolerances import assert_relatively_close
from longrope_vllm.rope import critical_pair, inverse_frequencies, rescaled_inverse_frequencies, wavelengths

GEOMETRIES = [(64, 1e4), (96, 1e4), (128, 1e4), (64, 1e5), (128, 5e5), (128, 1e6), (2, 1e4)]


def exact_frequencies(rotary_dim: int, base: float) -> list[mpmath.mpf]:
    with mpmath.workdps(40):
        return [mpmath.mpf(base) ** (-mpmath.mpf(2 * i) / rotary_dim) for i in range(rotary_dim // 2)]


def as_tensor(numbers: list[mpmath.mpf]) -> torch.Tensor:
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)


@pytest.mark.parametrize(("rotary_dim", "base"), GEOMETRIES)
def test_inverse_frequencies_equal_exact_powers_of_the_base(rotary_dim: int, base: float) -> None:
    found = inverse_frequencies(rotary_dim, base)
    assert found.dtype is torch.float64
    assert_relatively_close(found, as_tensor(exact_frequencies(rotary_dim, base)), computed_in=torch.float64)


@pytest.mark.parametrize(("rotary_dim", "base"), GEOMETRIES)
def test_rescaling_divides_each_pair_by_its_own_factor(rotary_dim: int, base: float) -> None:
    factors = [1.0 + 0.37 * i for i in range(rotary_dim // 2)]
    exact = [f / mpmath.mpf(factor) for f, factor in zip(exact_frequencies(rotary_dim, base), factors, strict=True)]
    found = rescaled_inverse_frequencies(rotary_dim, base, factors)
    assert_relatively_close(found, as_tensor(exact), computed_in=torch.float64)


def test_rescaling_reads_float32_factors_without_losing_precision_elsewhere() -> None:
    factors = torch.full((32,), 0.1, dtype=torch.float32)
    exact = [f / mpmath.mpf(float(factors[0])) for f in exact_frequencies(64, 1e4)]
    found = rescaled_inverse_frequencies(64, 1e4, factors)
    assert_relatively_close(found, as_tensor(exact), computed_in=torch.float64)


def test_wavelength_of_the_first_pair_is_one_turn() -> None:
    assert wavelengths(inverse_frequencies(64, 1e4))[0].item() == pytest.approx(float(2 * mpmath.pi), rel=1e-15)


@pytest.mark.parametrize(
    ("rotary_dim", "base", "window", "pair"),
    [
        (128, 5e5, 8192, 35),  # LLaMA3-8B, LongRoPE2 section 3.1
        (96, 1e4, 2048, 31),  # Phi3-mini with its 2k window, same place
        (64, 1e5, 8192, 20),
    ],
)
def test_critical_pair_equals_the_published_numbers(rotary_dim: int, base: float, window: int, pair: int) -> None:
    assert critical_pair(rotary_dim, base, window) == pair


@pytest.mark.parametrize(("rotary_dim", "base", "window"), [(128, 5e5, 8192), (96, 1e4, 4096), (64, 1e5, 2048)])
def test_critical_pair_is_the_first_that_does_not_fit_in_the_window(rotary_dim: int, base: float, window: int) -> None:
    pair = critical_pair(rotary_dim, base, window)
    periods = [2 * mpmath.pi / frequency for frequency in exact_frequencies(rotary_dim, base)]
    assert periods[pair - 1] < window <= periods[pair]
