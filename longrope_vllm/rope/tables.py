"""Rows of cos and sin for consecutive positions, one by one: the oracle of the factored table, and short tables.

Source: LongRoPE, arXiv 2402.13753, equation 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 65_536  # rows made at once: bounds the float64 intermediate at 64 MiB for a head size of 128


def cos_sin_rows(
    frequencies: Tensor, length: int, *, attention_factor: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Rows ``[cos | sin]`` for positions 0 … ``length - 1``, shape [N, 2 P] in ``dtype``, exact in float64 until then.

    ``frequencies`` [P] float64, radians a token, already rescaled.
    """
    pairs = frequencies.shape[0]
    rows = torch.empty(length, 2 * pairs, dtype=dtype, device=frequencies.device)
    for first in range(0, length, _CHUNK):
        last = min(first + _CHUNK, length)
        positions = torch.arange(first, last, dtype=torch.float64, device=frequencies.device)
        angles = positions[:, None] * frequencies.to(torch.float64)  # [chunk, P]
        rows[first:last, :pairs] = angles.cos() * attention_factor
        rows[first:last, pairs:] = angles.sin() * attention_factor
    return rows


def reference_rows(base: float, factors: Sequence[float], length: int, *, attention_factor: float = 1.0) -> Tensor:
    """Rows as transformers and stock vLLM compute them, angles in float32: shape [N, 2 P] float32, for parity.

    At position 2,097,151 such an angle is off by up to 0.15 rad.
    """
    pairs = len(factors)
    exponents = torch.arange(0, 2 * pairs, 2, dtype=torch.float32) / (2 * pairs)
    frequencies = 1.0 / (torch.tensor(factors, dtype=torch.float32) * base**exponents)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies  # [N, P]
    return torch.cat((angles.cos() * attention_factor, angles.sin() * attention_factor), dim=-1)
