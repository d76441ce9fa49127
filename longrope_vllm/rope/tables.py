"""Rows of cos and sin for consecutive positions, exact in float64 and cast only at the end.

Source: LongRoPE, arXiv 2402.13753, equation 3. Positions before ``start_tokens`` keep the angle and the magnitude of
the checkpoint's own rope, which in the paper is the plain one.
"""

import torch
from torch import Tensor

_CHUNK = 65_536  # rows made at once: bounds the float64 intermediate at 64 MiB for a head size of 128


def cos_sin_rows(
    frequencies: Tensor,
    length: int,
    *,
    attention_factor: float = 1.0,
    start_tokens: int = 0,
    start_frequencies: Tensor | None = None,
    start_attention_factor: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Rows ``[cos | sin]`` for positions 0 … ``length - 1``, shape [N, 2 P] in ``dtype``.

    ``frequencies`` [P] float64, radians a token, already rescaled. With ``start_tokens`` above 0 the first rows use
    ``start_frequencies`` [P] and ``start_attention_factor``, so that the start-token rule costs nothing when a row is
    read.
    """
    pairs = frequencies.shape[0]
    rows = torch.empty(length, 2 * pairs, dtype=dtype)
    for first in range(0, length, _CHUNK):
        last = min(first + _CHUNK, length)
        positions = torch.arange(first, last, dtype=torch.float64)
        angles = positions[:, None] * frequencies.to(torch.float64)  # [chunk, P]
        rows[first:last, :pairs] = angles.cos() * attention_factor
        rows[first:last, pairs:] = angles.sin() * attention_factor
    if start_tokens:
        assert start_frequencies is not None, "start tokens keep another rotation: its frequencies are needed"
        kept = min(start_tokens, length)
        rows[:kept] = cos_sin_rows(start_frequencies, kept, attention_factor=start_attention_factor, dtype=dtype)
    return rows
