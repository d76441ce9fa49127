"""The table of one tier: its rescaled rope, with the checkpoint's own rope for its first ``start_tokens`` positions.

Source: LongRoPE, arXiv 2402.13753, equation 3, which keeps the first n̂ tokens as they were; here with their magnitude.
"""

from typing import Literal, get_args

import torch

from longrope_vllm.factors import Tier
from longrope_vllm.geometry import Geometry
from longrope_vllm.rope import (
    BLOCK,
    Baseline,
    RopeTable,
    blocks_of,
    own_rope,
    reference_rows,
    rescaled_inverse_frequencies,
)

Angles = Literal["exact", "match-hf"]
"""How angles are computed: in float64, or in float32 as transformers and stock vLLM do (a row for each position)."""

ANGLES: tuple[Angles, ...] = get_args(Angles)


def tier_table(source: Geometry, tier: Tier, *, angles: Angles = "exact") -> RopeTable:
    """Table of ``tier`` for its ``max_length`` positions or more; ``source`` is the rope of the trained checkpoint."""
    rope = Baseline(factors=torch.tensor(tier.factors, dtype=torch.float64), attention_factor=tier.attention_factor)
    rescaled = _table(source, rope, tier.max_length, angles)
    if not tier.start_tokens:
        return rescaled
    mixed = blocks_of(tier.start_tokens)  # blocks with start tokens hold rows of their own, the others need none
    positions = torch.arange(mixed * BLOCK)
    rows = rescaled.read(positions)
    kept = positions[: tier.start_tokens]
    rows[: tier.start_tokens] = _table(source, own_rope(source), tier.start_tokens, angles).read(kept)
    return RopeTable.joined([RopeTable.of_rows(rows), rescaled.from_block(mixed)])


def _table(source: Geometry, rope: Baseline, length: int, angles: Angles) -> RopeTable:
    if angles == "match-hf":
        factors = rope.factors.tolist()
        return RopeTable.of_rows(reference_rows(source.base, factors, length, attention_factor=rope.attention_factor))
    frequencies = rescaled_inverse_frequencies(source.rotary_dim, source.base, rope.factors)
    return RopeTable.of_frequencies(frequencies, length, attention_factor=rope.attention_factor)
