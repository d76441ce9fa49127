"""What the tables of cos and sin take in each process that runs the model.

With several tiers that is one small table for each (``rope/rope_table.py``: a row for each block of positions and one
block of rows, or a row for each position where the rows are vLLM's own), and room for the rows of one step
(``plugin/rotary.py``). With one tier it is a row for each position, as in stock vLLM.
"""

from collections.abc import Mapping

from longrope_vllm.factors import Factors, Tier, own_tier
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.rope import BLOCK, blocks_of

_FLOAT32, _INT64 = 4, 8


def tier_bytes(model: ServedModel, factors: Factors | None, context: int) -> Mapping[int, int]:
    """Length of each tier in force up to ``context`` tokens, shortest first, to the bytes of its table.

    ``factors`` that end below ``context`` are taken to be followed by a tier that reaches it.
    """
    width = model.geometry.rotary_dim
    if factors is None:
        own = {model.reach: _table(model.reach, width, as_it_is=True)} if model.reach < context else {}
        return _of_one_row_each(model, {**own, context: _table(context, width, as_it_is=False)})
    own_one = own_tier(factors.geometry)
    lengths = [tier.max_length for tier in factors.tiers if tier.max_length < context] + [context]
    found = {}
    for length in lengths:
        tier = factors.tier_for(min(length, factors.max_length))
        as_it_is = length <= own_one.max_length and _is_rope(tier, own_one)
        found[length] = _table(length, width, as_it_is=as_it_is, start_tokens=tier.start_tokens)
    return _of_one_row_each(model, found)


def step_bytes(model: ServedModel, chunk: int, *, tiers: int) -> int:
    """Rows of one step of ``chunk`` tokens, with where each token's tier begins and its place; 0 for one tier."""
    return chunk * (model.geometry.rotary_dim * model.size + 2 * _INT64) if tiers > 1 else 0


def _of_one_row_each(model: ServedModel, tables: Mapping[int, int]) -> Mapping[int, int]:
    """``tables``, but rows for all positions in the model's own format where there is one tier only."""
    if len(tables) > 1:
        return tables
    return {length: length * model.geometry.rotary_dim * model.size for length in tables}


def _is_rope(tier: Tier, own: Tier) -> bool:
    return (tier.factors, tier.attention_factor) == (own.factors, own.attention_factor)


def _table(length: int, width: int, *, as_it_is: bool, start_tokens: int = 0) -> int:
    blocks = blocks_of(length)
    rows = 1 + blocks * BLOCK if as_it_is else BLOCK + blocks
    if start_tokens and not as_it_is:
        rows += 1 + blocks_of(start_tokens) * BLOCK
    return rows * width * _FLOAT32 + 2 * blocks * _INT64
