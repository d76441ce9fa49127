"""The rotary embedding of a longrope checkpoint: the rows of all tiers in one table, rotated by vLLM's own kernel.

Replaces ``Phi3LongRoPEScaledRotaryEmbedding`` under its own name, which ``get_rope`` looks up when it is called; that
class chooses one factor list for the whole server, rounds in bf16 and runs unfused. Here the position that arrives is
already a row of the table (see ``model_runner_v1``), so everything downstream is the plain rotary embedding.
Remove when vLLM lets a plugin register a class for a rope type.
"""

from collections.abc import Callable
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
from longrope_vllm.rope import cos_sin_rows, own_length, own_rope, rescaled_inverse_frequencies


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
        if served is None or (served.source.rotary_dim, served.source.base) != (rotary_dim, base):
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
        is_own = self.served.is_own(tier)  # start tokens are as the others then
        if tier.is_plain and (is_own or not tier.start_tokens):
            return self._stock_rows(length)
        if is_own and self._is_tabulated(tier):
            return self._own_rows(tier.max_length, length)
        source = self.served.source
        own = own_rope(source)
        return cos_sin_rows(
            rescaled_inverse_frequencies(source.rotary_dim, source.base, tier.factors),
            length,
            attention_factor=tier.attention_factor,
            start_tokens=tier.start_tokens,
            start_frequencies=rescaled_inverse_frequencies(source.rotary_dim, source.base, own.factors),
            start_attention_factor=own.attention_factor,
        )

    def _is_tabulated(self, tier: Tier) -> bool:
        """True when vLLM's own table of the source rope reaches as far as ``tier``; that of llama3 reaches anywhere."""
        source = self.served.source
        return source.rope_type == "llama3" or tier.max_length <= own_length(source)

    def _own_rows(self, served: int, length: int) -> Tensor:
        """The scaled rope that the checkpoint was trained with, exactly as vLLM tabulates it without the plugin.

        Rows after the ``served`` ones are spare and repeat the last one: vLLM's table may end with its rope.
        """
        source = self.served.source
        rope = {
            **source.rope,
            "factor": float(source.rope["factor"]),
            "rope_type": source.rope_type,
            "rope_theta": source.base,
            "original_max_position_embeddings": source.trained_window,
        }
        # linear multiplies the position it is given by its factor, the others tabulate it as it is or have their own
        end = source.trained_window if source.rope_type == "linear" else served
        stock = rotary_embedding.get_rope(
            source.rotary_dim, max_position=end, rope_parameters=rope, dtype=torch.float32
        )
        _forget(lambda table: table is stock)
        rows: Tensor = stock.cos_sin_cache[:served]
        return torch.cat([rows, rows[-1:].expand(length - served, -1)])

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
    _forget(lambda table: isinstance(table, TieredRotaryEmbedding))


def _forget(unwanted: Callable[[Any], bool]) -> None:
    tables = rotary_embedding._ROPE_DICT
    for key in [key for key, table in tables.items() if unwanted(table)]:
        del tables[key]


def _install_model_runner(vllm_config: Any) -> None:
    """Patch the model runner of this process: done here so that processes with other models never see it."""
    if vllm_config.use_v2_model_runner:
        from longrope_vllm.plugin import model_runner_v2

        model_runner_v2.install()
    else:
        from longrope_vllm.plugin import model_runner_v1

        model_runner_v1.install()
