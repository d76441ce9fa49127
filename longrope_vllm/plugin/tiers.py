"""Which tiers a server has, which one a sequence gets, and where its rows lie in the table.

Pure data and arithmetic: no patch, no tensor. The scheduler asks for the tier, the rotary embedding lays the rows
out, the model runners ask for row offsets.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.factors import Factors, Tier
from longrope_vllm.geometry import Geometry, has_longrope
from longrope_vllm.lengths import format_length
from longrope_vllm.rope import BLOCK, Baseline, blocks_of, own_rope
from longrope_vllm.rope_block import read_rope_block

MARK = "longrope_tiered"
"""Attribute of ``SchedulerConfig`` that says: this engine serves several tiers (set by ``engine_config``)."""


def serves_tiers(vllm_config: Any) -> bool:
    """True for an engine whose requests are in different tiers."""
    return bool(getattr(vllm_config.scheduler_config, MARK, False))


@dataclass(frozen=True, kw_only=True)
class ServedTiers:
    """The tiers in force for one server, shortest first, the last one reaching ``max_model_len``."""

    tiers: tuple[Tier, ...]
    source: Geometry
    """The rope that the checkpoint was trained with: that of its start tokens, and of a tier that leaves it alone."""

    @classmethod
    def from_vllm_config(cls, vllm_config: Any) -> Self | None:
        """Tiers of the model in ``vllm_config``, or None when it is not a longrope checkpoint."""
        model_config = getattr(vllm_config, "model_config", None)
        if model_config is None:
            return None
        return cls.from_config(model_config.hf_text_config.to_dict(), model_config.max_model_len)

    @classmethod
    def from_config(cls, config: dict[str, Any], max_model_len: int) -> Self | None:
        """Tiers for a checkpoint's ``config`` served up to ``max_model_len`` tokens; None without a longrope block.

        Raises ``UnsupportedError`` when the server is longer than the checkpoint's longest tier.
        """
        if not has_longrope(config):
            return None  # asked first: other models may have ropes that are no concern of ours
        factors = read_rope_block(config)
        return None if factors is None else cls.from_factors(factors, max_model_len)

    @classmethod
    def from_factors(cls, factors: Factors, max_model_len: int) -> Self:
        """Tiers of ``factors`` up to ``max_model_len``: the tier that reaches it ends there, longer ones fall away."""
        if max_model_len > factors.max_length:
            raise UnsupportedError(
                f"Expected max_model_len up to {factors.max_length}, the longest tier of this checkpoint, found "
                f"{max_model_len}: lower --max-model-len or apply factors for that length."
            )
        served = [tier for tier in factors.tiers if tier.max_length < max_model_len]
        reaching = factors.tier_for(max_model_len)
        fields = {**vars(reaching), "max_length": max_model_len}
        fields["start_tokens"] = min(reaching.start_tokens, max_model_len)
        return cls(tiers=(*served, Tier(**fields)), source=factors.geometry)

    @property
    def last(self) -> int:
        """Index of the longest tier."""
        return len(self.tiers) - 1

    def index_for(self, length: int) -> int:
        """Index of the shortest tier that holds ``length`` tokens (the last one for anything longer)."""
        for index, tier in enumerate(self.tiers):
            if length <= tier.max_length:
                return index
        return self.last

    def max_length(self, index: int) -> int:
        """Longest sequence of tier ``index``, in tokens."""
        return self.tiers[index].max_length

    @cached_property
    def row_offsets(self) -> tuple[int, ...]:
        """Where each tier begins in the joint table, in positions; every tier takes whole blocks.

        The longest tier comes first, so that a token without an offset reads its rows, as in stock vLLM.
        """
        offsets = [0] * len(self.tiers)
        row = 0
        for index in reversed(range(len(self.tiers))):
            offsets[index] = row
            row += blocks_of(self.tiers[index].max_length) * BLOCK
        return tuple(offsets)

    def identity(self, index: int) -> str:
        """Hash of the rotation of tier ``index``: equal for equal keys and values in the KV cache."""
        tier = {name: value for name, value in asdict(self.tiers[index]).items() if name != "max_length"}
        source = asdict(self.source) if tier["start_tokens"] else [self.source.rotary_dim, self.source.base]
        text = json.dumps([source, tier], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def cache_salt(self, index: int, client_salt: str | None) -> str | None:
        """What joins the prefix-cache key of a request in tier ``index``.

        Without a salt the longest tier has none either: its keys equal those of a stock server of this checkpoint. The
        identity always comes last and has a fixed length, so no client can salt itself into another tier.
        """
        if index == self.last and not client_salt:
            return None
        return f"{client_salt or ''}|longrope:{self.identity(index)}"

    def describe(self) -> str:
        """One line for logs: ``1–8k tokens plain | 8,193–16k tokens longrope, attention factor 1.069``."""
        parts, first = [], 1
        for tier in self.tiers:
            parts.append(f"{first:,}–{format_length(tier.max_length)} tokens {self._kind(tier)}")
            first = tier.max_length + 1
        return " | ".join(parts)

    def is_own(self, tier: Tier) -> bool:
        """True when ``tier`` is the rope that the checkpoint was trained with, as it is."""
        own = self._own
        return (tier.factors, tier.attention_factor) == (tuple(own.factors.tolist()), own.attention_factor)

    @cached_property
    def _own(self) -> Baseline:
        return own_rope(self.source)

    def _kind(self, tier: Tier) -> str:
        if tier.is_plain:
            return "plain"
        if self.is_own(tier):
            return f"{self.source.rope_type} as trained"
        start = f", {tier.start_tokens} start tokens" if tier.start_tokens else ""
        return f"longrope, attention factor {tier.attention_factor:.4g}{start}"
