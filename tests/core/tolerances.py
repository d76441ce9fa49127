"""How close two results must be, by the less precise dtype that was used to compute either."""

import torch
from torch import Tensor

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,  # powers of the rope base in float32, and ramps that cancel, lose several bits
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}

LOGITS = 1e-4
"""Largest difference of a float32 logit between two models that compute the same angles with other roundings."""


def assert_close(found: Tensor, expected: Tensor, *, computed_in: torch.dtype) -> None:
    """For values of order 1, such as cosines and states: the absolute difference counts."""
    tolerance = TOLERANCE[computed_in]
    torch.testing.assert_close(found.double(), expected.double(), rtol=0.0, atol=tolerance)


def assert_relatively_close(found: Tensor, expected: Tensor, *, computed_in: torch.dtype) -> None:
    """For values of any magnitude, such as frequencies and factors: the relative difference counts."""
    tolerance = TOLERANCE[computed_in]
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=0.0)
