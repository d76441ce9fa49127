"""A rotary embedding through which gradients reach the factors; transformers' own runs without gradients.

cos and sin are ``m cos(t f_i / lambda_i)`` and ``m sin(t f_i / lambda_i)`` (LongRoPE, arXiv 2402.13753, equation 3), in
float64 until they are cast. With ``g`` the derivative of the loss and ``a`` the angle,

    d loss / d log lambda_i = sum over t of  a_ti (sin_ti g_cos - cos_ti g_sin)
    d loss / d log m        = sum of  cos g_cos + sin g_sin

Angles are computed again on the way back, in chunks, so that nothing but what the model reads is kept.
"""

from typing import Any

import torch
from torch import Tensor, nn

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Gradient
from longrope_vllm.geometry import Geometry
from longrope_vllm.rope import inverse_frequencies, own_rope

_CHUNK = 65_536  # positions whose angles are in memory at once


class _CosSin(torch.autograd.Function):
    """[2, T, P] of cos and sin in ``dtype``, for positions [T]."""

    @staticmethod
    def forward(
        ctx: Any, log_factors: Tensor, log_magnitude: Tensor, plain: Tensor, positions: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """``plain`` [P] float64 are the unscaled inverse frequencies."""
        ctx.save_for_backward(log_factors, log_magnitude, plain, positions)
        rows = torch.empty(2, len(positions), len(plain), dtype=dtype, device=positions.device)
        for first, angles in _angles(log_factors, plain, positions):
            rows[0, first : first + len(angles)] = angles.cos() * log_magnitude.exp()
            rows[1, first : first + len(angles)] = angles.sin() * log_magnitude.exp()
        return rows

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """``slope`` has the shape of the rows."""
        log_factors, log_magnitude, plain, positions = ctx.saved_tensors
        of_factors, of_magnitude = torch.zeros_like(log_factors), torch.zeros_like(log_magnitude)
        for first, angles in _angles(log_factors, plain, positions):
            of_cos, of_sin = slope[:, first : first + len(angles)].double()  # each [chunk, P]
            cos, sin = angles.cos() * log_magnitude.exp(), angles.sin() * log_magnitude.exp()
            of_factors += (angles * (sin * of_cos - cos * of_sin)).sum(0)
            of_magnitude += (cos * of_cos + sin * of_sin).sum()
        return of_factors, of_magnitude, None, None, None


def _angles(log_factors: Tensor, plain: Tensor, positions: Tensor) -> Any:
    frequencies = plain * torch.exp(-log_factors)
    for first in range(0, len(positions), _CHUNK):
        yield first, positions[first : first + _CHUNK, None].double() * frequencies


class LearnableRope(nn.Module):
    """Stands in for a transformers rotary embedding while a gradient is taken."""

    def __init__(self, geometry: Geometry, candidate: Candidate, device: torch.device) -> None:
        """The rope of ``candidate``, whose start tokens keep the rope of ``geometry`` and have no gradient."""
        super().__init__()
        factors = torch.tensor(candidate.factors, dtype=torch.float64, device=device)
        magnitude = torch.tensor(candidate.attention_factor, dtype=torch.float64, device=device)
        self.log_factors = nn.Parameter(factors.log())
        self.log_attention_factor = nn.Parameter(magnitude.log())
        self._plain = inverse_frequencies(geometry.rotary_dim, geometry.base).to(device)
        self._own = own_rope(geometry)
        self._start_tokens = candidate.start_tokens

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of shape [1, T, 2 P] (each half repeated), in the dtype of ``x``, for one sequence."""
        positions = position_ids[0]
        make: Any = _CosSin.apply
        rows: Tensor = make(self.log_factors, self.log_attention_factor, self._plain, positions, x.dtype)
        if self._start_tokens:
            kept = positions < self._start_tokens
            rows = torch.where(kept[None, :, None], self._own_rows(positions, x.dtype), rows)
        cos, sin = torch.cat([rows, rows], dim=-1)[:, None]  # [2, 1, T, 2 P]
        return cos, sin

    def _own_rows(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        angles = positions[:, None].double() * (self._plain / self._own.factors.to(self._plain))
        return (torch.stack([angles.cos(), angles.sin()]) * self._own.attention_factor).to(dtype)

    def gradient(self, *, of_mean_over: int) -> Gradient:
        """What a backward pass over a sum of so many losses has left, for their mean.

        The sum is what is sent back: divided by its tokens before, a slope of float16 would be lost in zero.
        """
        assert self.log_factors.grad is not None
        assert self.log_attention_factor.grad is not None
        return Gradient(
            log_factors=self.log_factors.grad.cpu().numpy() / of_mean_over,
            log_attention_factor=self.log_attention_factor.grad.item() / of_mean_over,
        )
