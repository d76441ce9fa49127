"""The rotary embedding of a longrope checkpoint: one table for all tiers, and the rows of the tokens of one step.

Replaces ``Phi3LongRoPEScaledRotaryEmbedding`` under its own name, which ``get_rope`` looks up when it is called; that
class chooses one factor list for the whole server, rounds in bf16 and runs unfused. Here ``cos_sin_cache`` holds the
rows of the tokens of the running step, whatever their tier and position (``step_rows`` fills it before the model runs,
and gives the model places in it for positions). So every layer runs vLLM's own rotary kernel, fused passes included.
A drafter, which follows its target in the longest tier, and a server of one tier have a row for each position instead,
as in stock vLLM. Remove when vLLM lets a plugin register a class for a rope type.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.factors import Tier
from longrope_vllm.plugin import compat
from longrope_vllm.plugin.read_rows import read_rows
from longrope_vllm.plugin.settings import server_settings
from longrope_vllm.plugin.step_rows import tokens_of_a_step
from longrope_vllm.plugin.tiers import ServedTiers, serves_tiers
from longrope_vllm.rope import RopeTable, own_length
from longrope_vllm.tier_table import tier_table

_CHUNK = 65_536  # positions tabulated at once

_loading_drafter: ContextVar[bool] = ContextVar("longrope_loading_drafter", default=False)


class TieredRotaryEmbedding(RotaryEmbedding):  # type: ignore[misc]
    """``table_rows``, ``table_turns``, ``table_steps``: the ``RopeTable`` of all tiers, the longest first.

    ``cos_sin_cache`` [tokens a step, rotary_dim] in the model's dtype: the rows of the running step. ``offsets`` and
    ``places`` [tokens a step] int64 are those of ``StepRows``; they live here so that they survive what tables survive:
    a sleeping engine, reloaded weights. Without ``by_step`` none of these exist and ``cos_sin_cache`` is the table of
    the longest tier, of a drafter ``length`` rows: past its own end the last one.
    """

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
        self.angles = server_settings(vllm_config).angles
        self.by_step = serves_tiers(vllm_config) and not _loading_drafter.get()
        self.step_tokens = tokens_of_a_step(vllm_config)
        self.length = max(served.tiers[-1].max_length, _length_of_target(vllm_config))
        super().__init__(head_size, rotary_dim, max_position_embeddings, base, is_neox_style, dtype)
        if self.by_step:
            self.cos_sin_cache_bf16 = None  # a copy that ROCm's base class keeps: it would never be filled

    @property
    def table(self) -> RopeTable:
        """The table of all tiers, where the module's buffers are now."""
        return RopeTable(rows=self.table_rows, turns=self.table_turns, steps=self.table_steps)

    def take_rows(self, positions: Tensor, offsets: Tensor) -> None:
        """Put the rows at ``positions`` + ``offsets``, both [T] int64, in the first T places of ``cos_sin_cache``."""
        read_rows(self.table, positions, offsets, out=self.cos_sin_cache[: positions.shape[0]])

    def _compute_cos_sin_cache(self) -> Tensor:
        """Room for the rows of a step, or the rows of all positions; the base class casts them to the model's dtype."""
        if not self.by_step:
            longest = self.served.tiers[-1]
            table = self._table(longest)
            chunks = torch.split(torch.arange(self.length).clamp(max=longest.max_length - 1), _CHUNK)
            return torch.cat([table.read(positions).to(self.dtype) for positions in chunks])
        table = RopeTable.joined([self._table(tier) for tier in reversed(self.served.tiers)])
        buffers = {
            "table_rows": table.rows,
            "table_turns": table.turns,
            "table_steps": table.steps,
            "offsets": torch.zeros(self.step_tokens, dtype=torch.int64),
            "places": torch.arange(self.step_tokens),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)
        return torch.zeros(self.step_tokens, self.rotary_dim, dtype=torch.float32)

    def _table(self, tier: Tier) -> RopeTable:
        is_own = self.served.is_own(tier)  # start tokens are as the others then
        if tier.is_plain and (is_own or not tier.start_tokens):
            return RopeTable.of_rows(self._stock_rows(tier.max_length))
        if is_own and self._is_tabulated(tier):
            return RopeTable.of_rows(self._own_rows(tier.max_length))
        return tier_table(self.served.source, tier, angles=self.angles)

    def _is_tabulated(self, tier: Tier) -> bool:
        """True when vLLM's own table of the source rope reaches as far as ``tier``; that of llama3 reaches anywhere."""
        source = self.served.source
        return source.rope_type == "llama3" or tier.max_length <= own_length(source)

    def _own_rows(self, length: int) -> Tensor:
        """The scaled rope that the checkpoint was trained with, exactly as vLLM tabulates it without the plugin."""
        source = self.served.source
        rope = {
            **source.rope,
            "factor": float(source.rope["factor"]),
            "rope_type": source.rope_type,
            "rope_theta": source.base,
            "original_max_position_embeddings": source.trained_window,
        }
        # linear multiplies the position it is given by its factor, the others tabulate it as it is or have their own
        end = source.trained_window if source.rope_type == "linear" else length
        stock = rotary_embedding.get_rope(
            source.rotary_dim, max_position=end, rope_parameters=rope, dtype=torch.float32
        )
        _forget(lambda table: table is stock)
        rows: Tensor = stock.cos_sin_cache[:length]
        return rows

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


@contextmanager
def fresh_tables(*, drafter: bool) -> Iterator[None]:
    """Within the block a model is loaded, with tables of its own.

    ``get_rope`` keeps them by a key that holds neither the length that an engine serves nor who asks. Models that are
    loaded already keep theirs. Remove when the key holds both.
    """
    _forget(lambda table: isinstance(table, TieredRotaryEmbedding))
    before = _loading_drafter.set(drafter)
    try:
        yield
    finally:
        _loading_drafter.reset(before)


def _length_of_target(vllm_config: Any) -> int:
    """Positions that a drafter may be asked for: vLLM's V2 runner knows only how far its target reaches."""
    if not _loading_drafter.get():
        return 0
    length: int = vllm_config.speculative_config.target_model_config.max_model_len
    return length


def _forget(unwanted: Callable[[Any], bool]) -> None:
    tables = rotary_embedding._ROPE_DICT
    for key in [key for key, table in tables.items() if unwanted(table)]:
        del tables[key]
