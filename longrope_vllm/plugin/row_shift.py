"""Positions to rows: adds the row offset of each token's tier in fixed buffers, as CUDA graphs need them.

Both model runners use it: the runner's own positions stay true (slot mapping, attention metadata and drafters read
them), only the model's rotary embeddings see rows.
"""

import torch
from torch import Tensor, nn

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.tiers import ServedTiers


class RowShift:
    """``offsets`` [max tokens a step], int64 on the device, is filled by the runner; ``rows`` uses a buffer like it."""

    def __init__(self, served: ServedTiers, offsets: Tensor) -> None:
        self.served = served
        self.offsets = offsets
        self.buffer = torch.zeros_like(offsets)

    def rows(self, positions: Tensor) -> Tensor:
        """Rows of ``positions`` [T], a view of the fixed buffer.

        Padding past the scheduled tokens holds a position and an offset that were right in an earlier step, or position
        0: a row inside the table.
        """
        count = positions.shape[0]
        return torch.add(positions, self.offsets[:count], out=self.buffer[:count])


def tiers_of(model: nn.Module, max_model_len: int) -> ServedTiers:
    """The tiers whose rows lie in the table of ``model``.

    Asked of the table itself, not of the configuration, which may have been fitted to the memory since it was built.
    Raises ``UnsupportedError`` when some layers rotate by another table: rows would be wrong there, or the table ends
    before ``max_model_len`` tokens.
    """
    found: ServedTiers | None = None
    for name, module in model.named_modules():
        if not isinstance(getattr(module, "cos_sin_cache", None), Tensor):
            continue
        found = getattr(module, "served", None)
        if not isinstance(found, ServedTiers):
            raise UnsupportedError(
                f"Expected one longrope rotary embedding in all layers, found {type(module).__name__} at {name}: "
                "models with several ropes are not supported."
            )
    assert found is not None, "installed by a rotary embedding of this model"
    longest = found.max_length(found.last)
    if longest < max_model_len:
        raise UnsupportedError(
            f"Expected a rope table for {max_model_len} tokens, found one for {longest}: it was built for another "
            "engine in this process, so serve this model in a process of its own."
        )
    return found
