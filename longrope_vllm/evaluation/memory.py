"""A pass over a long text may need more memory than there is: then one sentence says what to change."""

from collections.abc import Callable
from typing import TypeVar

import torch

from longrope_vllm.errors import EvaluationError

Result = TypeVar("Result")


_INSTEAD = "evaluate shorter lengths, in --dtype bfloat16, on a larger device, or through a server"


def in_memory(pass_over: Callable[[], Result], *, tokens: int, instead: str = _INSTEAD) -> Result:
    """What ``pass_over`` gives. Raises ``EvaluationError`` with what to do ``instead`` when memory runs out in it."""
    try:
        return pass_over()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise EvaluationError(
            f"Expected memory for one pass over {tokens:,} tokens, found too little: {instead}."
        ) from None
