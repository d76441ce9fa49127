"""The rotary embedding of a longrope checkpoint: the rows of all tiers in one table, rotated by vLLM's own kernel.

Replaces ``Phi3LongRoPEScaledRotaryEmbedding`` under its own name, which ``get_rope`` looks up when it is called; that
class chooses one factor list for the whole server, rounds in bf16 and runs unfused. Here the position that arrives is
already a row of the table (see ``model_runner_v1``), so everything downstream is the plain rotary embedding.
Remove when vLLM lets a plugin register a class for a rope type.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.factors import Tier
from longrope_vllm.plugin import compat
from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.rope import cos_sin_rows, inverse_frequencies, rescaled_inverse_frequencies


class TieredRotaryEmbedding(RotaryEmbedding):  # type: ignore[misc]
    """Joint table of all tiers, shape [sum of tier lengths, rotary_dim], longest tier first."""

    def __init__(
        self,
        head_size: int,
        rotary_dim: int,
        max_position_embeddings: int,
        original_max_position_embeddings: int,
        base: float,
        is_neox_style: bool,
        dtype: torch.dtype,
        short_factor: list[float],
        long_factor: list[float],
        short_mscale: float | None = None,
        long_mscale: float | None = None,
    ) -> None:
        """Takes what ``get_rope`` passes to the stock class; the tiers come from the model's configuration."""
        vllm_config = get_current_vllm_config()
        served = ServedTiers.from_vllm_config(vllm_config)
        if served is None or (served.rotary_dim, served.base) != (rotary_dim, base):
            raise UnsupportedError(
                "Expected the longrope block of the language model, found another one in a part of this model: "
                "several ropes in one model are not supported."
            )
        if not is_neox_style:
            raise UnsupportedError("Expected the half-split rotary layout for longrope, found the interleaved one.")
        self.served = served
        speculative = vllm_config.speculative_config
        # Drafts of a waiting request are scheduled untrimmed; they may look past the tier that ends the table.
        self.spare_rows = 0 if speculative is None else speculative.num_speculative_tokens or 0
        super().__init__(head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype)
        if served.last and vllm_config.model_config.runner_type != "draft":
            _install_model_runner(vllm_config)

    def _compute_cos_sin_cache(self) -> Tensor:
        """Rows ``[cos | sin]`` of every tier, longest first, float32 (the base class casts to the model's dtype)."""
        shortest, *longer = self.served.tiers
        rows = [self._rows(tier, tier.max_length) for tier in reversed(longer)]
        return torch.cat([*rows, self._rows(shortest, shortest.max_length + self.spare_rows)])

    def _rows(self, tier: Tier, length: int) -> Tensor:
        if tier.is_plain:
            return self._stock_rows(length)
        plain = inverse_frequencies(self.rotary_dim, self.base)
        return cos_sin_rows(
            rescaled_inverse_frequencies(self.rotary_dim, self.base, tier.factors),
            length,
            attention_factor=tier.attention_factor,
            start_tokens=tier.start_tokens,
            plain_frequencies=plain,
        )

    def _stock_rows(self, length: int) -> Tensor:
        """The unscaled rope exactly as vLLM tabulates it for the base model, rounding included.

        A plain tier promises the answers of the unmodified model, so it must share its last bit, not improve on it.
        """
        declared: int = self.max_position_embeddings
        self.max_position_embeddings: int = length
        try:
            rows: Tensor = super()._compute_cos_sin_cache()
        finally:
            self.max_position_embeddings = declared
        return rows


def install() -> None:
    """Put ``TieredRotaryEmbedding`` where ``get_rope`` finds the stock longrope class."""
    setattr(rotary_embedding, compat.STOCK_LONGROPE, TieredRotaryEmbedding)


def forget_tables() -> None:
    """Drop our tables from ``get_rope``'s cache, whose key does not hold the length that a new engine serves.

    Engines that already run keep theirs. Remove when the key holds ``max_model_len``.
    """
    tables = rotary_embedding._ROPE_DICT
    for key in [key for key, table in tables.items() if isinstance(table, TieredRotaryEmbedding)]:
        del tables[key]


def _install_model_runner(vllm_config: Any) -> None:
    """Patch the model runner of this process: done here so that processes with other models never see it."""
    if vllm_config.use_v2_model_runner:
        from longrope_vllm.plugin import model_runner_v2

        model_runner_v2.install()
    else:
        from longrope_vllm.plugin import model_runner_v1

        model_runner_v1.install()
