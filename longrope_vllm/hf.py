"""Put one tier of factors into a live transformers model, fixed for the run, and take it out again.

Why fixed: transformers switches between the two factor lists of a longrope checkpoint by the largest position it sees
in a forward pass, so cached keys keep the old rotation and one long row changes the short ones beside it. Here every
position is rotated by the same tier until it is removed. One forward pass under a fixed tier is the oracle of the
served answers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from longrope_vllm.errors import CheckpointError, FactorsError
from longrope_vllm.factors import Factors, Tier
from longrope_vllm.rope import RopeTable
from longrope_vllm.rope_block import check_fits
from longrope_vllm.tier_table import tier_table


class FixedRotaryEmbedding(nn.Module):
    """Stands in for a transformers rotary embedding: cos and sin by position, from the table that is served."""

    rows: Tensor
    turns: Tensor
    steps: Tensor

    def __init__(self, table: RopeTable, length: int) -> None:
        """``table`` of one tier, of which positions below ``length`` may be asked."""
        super().__init__()
        self.length = length
        self.register_buffer("rows", table.rows, persistent=False)
        self.register_buffer("turns", table.turns, persistent=False)
        self.register_buffer("steps", table.steps, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of shape [batch, T, 2 P] (each half repeated), in the dtype of ``x``.

        Raises ``FactorsError`` for a position past the table instead of rotating it wrongly.
        """
        if int(position_ids.max()) >= self.length:
            raise FactorsError(
                f"Expected positions below {self.length}, found {int(position_ids.max())}: put factors in with a "
                "longer tier."
            )
        table = RopeTable(rows=self.rows, turns=self.turns, steps=self.steps)
        cos, sin = table.read(position_ids).to(x.dtype).chunk(2, dim=-1)  # each [batch, T, P]
        return cos.repeat(1, 1, 2), sin.repeat(1, 1, 2)


@contextmanager
def fixed_rope(model: nn.Module, factors: Factors, *, length: int) -> Iterator[Tier]:
    """Within the block ``model`` rotates everything with the tier that serves ``length`` tokens.

    Yields that tier. The model's own rotary modules are put back on exit, also after an exception. Raises
    ``FactorsError`` for factors of another rope and ``CheckpointError`` for a model without a rotary embedding.
    """
    tier = factors.tier_for(length)
    replaced = put_tier(model, factors, tier)
    try:
        yield tier
    finally:
        take_out(replaced)


Replaced = list[tuple[nn.Module, str, Any]]
"""(parent, attribute, original module) of every rotary embedding that was replaced."""


def put_tier(model: nn.Module, factors: Factors, tier: Tier) -> Replaced:
    """Replace every rotary embedding of ``model`` by one with ``tier``; give the result to ``take_out``."""
    whole: Any = model.config
    check_fits(whole.get_text_config().to_dict(), factors)
    return put_rotary(model, FixedRotaryEmbedding(tier_table(factors.geometry, tier), tier.max_length))


def put_rotary(model: nn.Module, rotary: nn.Module) -> Replaced:
    """Replace every rotary embedding of ``model`` by ``rotary``, moved to its device.

    Give the result to ``take_out``. Raises ``CheckpointError`` for a model without one, or with another layout.
    """
    whole: Any = model.config
    language = whole.get_text_config()
    found: Replaced = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if _is_rotary_of(child, language)
    ]
    if not found:
        raise CheckpointError(f"Expected a rotary embedding in {type(model).__name__}, found none.")
    for _, _, original in found:
        _check_layout(original)
    for parent, name, original in found:
        setattr(parent, name, rotary.to(original.inv_freq.device))
    return found


def take_out(replaced: Replaced) -> None:
    """Put the model's own rotary embeddings back."""
    for parent, name, original in replaced:
        setattr(parent, name, original)


def _is_rotary_of(module: nn.Module, config: Any) -> bool:
    """True for a rotary embedding of the language model: a vision tower has one with a config of its own."""
    return (
        type(module).__name__.endswith("RotaryEmbedding")
        and hasattr(module, "inv_freq")
        and isinstance(getattr(module, "config", None), type(config))
    )


def _check_layout(rotary: Any) -> None:
    """Raise unless ``rotary`` answers in the half-split layout that ``FixedRotaryEmbedding`` produces."""
    position = torch.ones(1, 1, dtype=torch.long, device=rotary.inv_freq.device)
    cos, _ = rotary(torch.zeros(1, device=position.device), position)
    if not torch.equal(cos[..., : cos.shape[-1] // 2], cos[..., cos.shape[-1] // 2 :]):
        raise CheckpointError(
            f"Expected the half-split rotary layout, found another in {type(rotary).__name__}: this model is not "
            "supported."
        )
