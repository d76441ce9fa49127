"""Inverse frequencies of a rotary embedding, plain and rescaled (RoFormer, arXiv 2104.09864, section 3.2).

All in float64: at position 2,097,151 an angle computed in float32 is off by 0.06 rad from rounding alone.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def inverse_frequencies(rotary_dim: int, base: float) -> Tensor:
    """``f_i = base ** (-2 i / rotary_dim)`` in radians a token, shape [P], float64."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim
    return torch.pow(torch.tensor(base, dtype=torch.float64), -exponents)


def rescaled_inverse_frequencies(rotary_dim: int, base: float, factors: Sequence[float] | Tensor) -> Tensor:
    """``f_i / lambda_i`` (LongRoPE, arXiv 2402.13753, equation 3), shape [P], float64. ``factors`` has shape [P]."""
    return inverse_frequencies(rotary_dim, base) / torch.as_tensor(factors, dtype=torch.float64)


def wavelengths(frequencies: Tensor) -> Tensor:
    """Tokens in one full turn of each pair, ``2 pi / f_i``, shape [P]."""
    return 2 * math.pi / frequencies


def critical_pair(rotary_dim: int, base: float, trained_window: float) -> int:
    """First pair whose period does not fit in the trained window.

    ``ceil((d / 2) * log_base(L / 2 pi))`` (LongRoPE2, arXiv 2502.20082, section 3.1): pairs from here on have
    never been seen through a whole turn and must be interpolated.
    """
    return math.ceil(rotary_dim / 2 * math.log(trained_window / (2 * math.pi)) / math.log(base))
