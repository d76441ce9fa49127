"""The rotation itself, in plain PyTorch: the oracle for every kernel (RoFormer, arXiv 2104.09864, equation 34).

Half-split ("neox") layout: element ``i`` pairs with ``i + P``. Left out: the interleaved layout of GPT-J.
"""

import torch
from torch import Tensor


def apply_rotary(states: Tensor, rows: Tensor) -> Tensor:
    """Rotate ``states`` [T, H, D] by ``rows`` [T, 2 P] of ``[cos | sin]``; same shape and dtype as ``states``.

    Head elements past ``2 P`` (partial rotary) pass through. Computed in the wider of the two dtypes.
    """
    pairs = rows.shape[-1] // 2
    cos, sin = rows[:, None, :pairs], rows[:, None, pairs:]  # [T, 1, P]
    first, second = states[..., :pairs], states[..., pairs : 2 * pairs]  # [T, H, P]
    rotated = torch.cat(
        (first * cos - second * sin, second * cos + first * sin, states[..., 2 * pairs :]),
        dim=-1,
    )
    return rotated.to(states.dtype)
