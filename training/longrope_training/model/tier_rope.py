"""Several fixed ropes in one model, and the name of the one in use.

Mixed context window training (LongRoPE2, arXiv 2502.20082) turns short rows by the checkpoint's own rope
and long rows by the rescaled one. transformers would choose between the two by the largest position that a process
sees: two halves of a row, shared out over processes, get different rotations. Here whoever feeds the model names the
rope of each row, and nothing else decides.
"""

from collections.abc import Callable, Mapping
from typing import Self

from torch import Tensor, nn

from longrope_vllm.factors import Factors, Tier
from longrope_vllm.hf import FixedRotaryEmbedding
from longrope_vllm.tier_table import tier_table


class TierRope(nn.Module):
    """Stands in for a transformers rotary embedding; ``put_rotary`` puts it in."""

    def __init__(self, tables: Mapping[str, FixedRotaryEmbedding]) -> None:
        """``tables`` by name; the first is in use."""
        super().__init__()
        assert tables, "a rope needs a table"
        self.tables = nn.ModuleDict(tables)
        self.in_use = next(iter(tables))

    def use(self, name: str) -> None:
        """Rotate by the table ``name`` from the next forward pass on."""
        assert name in self.tables, f"{name!r} is none of {', '.join(self.tables)}"
        self.in_use = name

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of shape [batch, T, 2 P] (each half repeated), in the dtype of ``x``.

        Raises ``FactorsError`` for a position past the table in use.
        """
        cos, sin = self.tables[self.in_use](x, position_ids)
        return cos, sin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the model to its device, and keep the tables in float32 where the model is cast.

        bfloat16 holds a cosine to 0.002 only, and a table is read by a sum of products of its rows.
        """
        for table in self.tables.values():
            for name, buffer in table.named_buffers():
                setattr(table, name, buffer.to(fn(buffer).device))
        return self


def tier_rope(tiers: Mapping[str, tuple[Factors, Tier]]) -> TierRope:
    """A rope with the table of each tier by name; positions below the tier's ``max_length`` may be asked."""
    tables = {
        name: FixedRotaryEmbedding(tier_table(factors.geometry, tier), tier.max_length)
        for name, (factors, tier) in tiers.items()
    }
    return TierRope(tables)
