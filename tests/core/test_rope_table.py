"""Oracles: mpmath at single positions, and rows computed one by one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.test_tables import LAST_POSITIONS, exact_row
from core.tolerances import assert_close
from longrope_vllm.factors import Tier
from longrope_vllm.geometry import Geometry
from longrope_vllm.rope import (
    BLOCK,
    RopeTable,
    apply_rotary,
    cos_sin_rows,
    inverse_frequencies,
    own_rope,
    rescaled_inverse_frequencies,
)
from longrope_vllm.tier_table import tier_table

PAIRS = 8
FACTORS = (1.0, 1.3, 2.0, 5.5, 8.0, 64.0, 300.0, 512.0)
FREQUENCIES = rescaled_inverse_frequencies(2 * PAIRS, 1e6, FACTORS)
LENGTH = 2_097_152
TABLE = RopeTable.of_frequencies(FREQUENCIES, LENGTH, attention_factor=1.2)
MILLION_BYTES = 1_000_000


def geometry(**rope: object) -> Geometry:
    return Geometry(
        head_size=2 * PAIRS,
        rotary_dim=2 * PAIRS,
        base=1e4,
        trained_window=4096,
        max_positions=4096,
        rope_type="yarn" if rope else "default",
        rope=rope,
    )


@pytest.mark.parametrize("position", [0, 1, BLOCK - 1, BLOCK, *LAST_POSITIONS])
def test_rows_by_angle_addition_are_exact_to_float32(position: int) -> None:
    expected = exact_row(position, 2 * PAIRS, 1e6, list(FACTORS), 1.2)
    torch.testing.assert_close(TABLE.read(torch.tensor(position)).double(), expected, rtol=0.0, atol=4 * 2**-24)


@given(first=st.integers(0, LENGTH - 1), second=st.integers(0, LENGTH - 1))
def test_only_the_relative_position_matters_up_to_two_million(first: int, second: int) -> None:
    low, high = sorted((first, second))
    query, key = torch.randn(2, 1, 1, 2 * PAIRS, generator=torch.Generator().manual_seed(0)).unbind(0)

    def score(at_query: int, at_key: int) -> Tensor:
        rows = TABLE.read(torch.tensor([at_query, at_key]))
        return (apply_rotary(query, rows[:1]) * apply_rotary(key, rows[1:])).sum()

    torch.testing.assert_close(score(high, low), score(high - low, 0), rtol=0.0, atol=2e-5)  # a sum of 16 products


@given(position=st.integers(0, LENGTH - 1))
def test_the_norm_is_kept_up_to_the_magnitude(position: int) -> None:
    cos, sin = TABLE.read(torch.tensor(position)).double().chunk(2)
    assert_close((cos**2 + sin**2).sqrt(), torch.full((PAIRS,), 1.2), computed_in=torch.float32)


def test_positions_may_have_any_shape() -> None:
    positions = torch.tensor([[0, 5000], [77, LENGTH - 1]])
    found = TABLE.read(positions)
    assert found.shape == (2, 2, 2 * PAIRS)
    assert torch.equal(found[1, 1], TABLE.read(torch.tensor(LENGTH - 1)))


def test_a_position_outside_reads_the_nearest_end() -> None:
    ends = TABLE.read(torch.tensor([0, TABLE.length - 1]))
    assert torch.equal(TABLE.read(torch.tensor([-3, TABLE.length + 7])), ends)


@pytest.mark.parametrize("length", [1, 70, BLOCK, BLOCK + 1, 3000])
def test_tabulated_rows_come_back_to_the_last_bit(length: int) -> None:
    rows = torch.randn(length, 2 * PAIRS, generator=torch.Generator().manual_seed(0))
    table = RopeTable.of_rows(rows)
    assert torch.equal(table.read(torch.arange(length)), rows)
    assert torch.equal(table.read(torch.arange(length, table.length)), rows[-1:].expand(table.length - length, -1))


def test_joined_tables_lie_one_after_the_other_in_whole_blocks() -> None:
    parts = [
        TABLE,
        RopeTable.of_rows(cos_sin_rows(FREQUENCIES, 1500)),
        RopeTable.of_frequencies(FREQUENCIES / 3, 5000, attention_factor=0.9),
    ]
    joined = RopeTable.joined(parts)
    first = 0
    for part in parts:
        positions = torch.arange(0, part.length, 501)
        assert torch.equal(joined.read(first + positions), part.read(positions))
        first += part.length
    assert first == joined.length


@pytest.mark.parametrize("start_tokens", [1, 256, BLOCK, BLOCK + 7, 5000])
@pytest.mark.parametrize("yarn", [False, True])
def test_start_tokens_keep_the_rope_of_the_checkpoint_with_its_magnitude(start_tokens: int, yarn: bool) -> None:
    source = geometry(factor=4.0) if yarn else geometry()
    tier = Tier(max_length=5000, factors=FACTORS, attention_factor=1.3, start_tokens=start_tokens)
    found = tier_table(source, tier).read(torch.arange(5000))
    own = own_rope(source)
    kept = rescaled_inverse_frequencies(2 * PAIRS, 1e4, own.factors)
    rows = cos_sin_rows(rescaled_inverse_frequencies(2 * PAIRS, 1e4, FACTORS), 5000, attention_factor=1.3)
    rows[:start_tokens] = cos_sin_rows(kept, start_tokens, attention_factor=own.attention_factor)
    assert_close(found, rows, computed_in=torch.float32)
    assert (own.attention_factor != 1.0) is yarn


def test_tiers_of_two_million_positions_take_less_than_eight_megabytes() -> None:
    source = Geometry(
        head_size=128, rotary_dim=128, base=5e5, trained_window=8192, max_positions=8192, rope_type="default"
    )
    factors = (4.0,) * 64
    own = RopeTable.of_rows(cos_sin_rows(inverse_frequencies(128, 5e5), 8192))
    longer = [
        tier_table(source, Tier(max_length=length, factors=factors, start_tokens=64)) for length in (131_072, LENGTH)
    ]
    assert RopeTable.joined([*longer, own]).nbytes < 8 * MILLION_BYTES


def test_the_same_rows_as_transformers_when_asked_to_match() -> None:
    from transformers import Phi3Config
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

    block = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * PAIRS,
        "long_factor": list(FACTORS),
        "original_max_position_embeddings": 4096,
    }
    config = Phi3Config(
        hidden_size=2 * PAIRS,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=131_072,
        original_max_position_embeddings=4096,
        rope_parameters=block,
        pad_token_id=0,
    )
    theirs = Phi3RotaryEmbedding(config)
    positions = torch.tensor([[0, 1, 4095, 4096, 65_537, 131_071]])
    cos, sin = theirs(torch.zeros(1), positions)
    tier = Tier(max_length=131_072, factors=FACTORS, attention_factor=theirs.attention_scaling)
    rows = tier_table(geometry(), tier, angles="match-hf").read(positions)
    assert torch.equal(rows, torch.cat([cos[..., :PAIRS], sin[..., :PAIRS]], dim=-1))
    exact = tier_table(geometry(), tier).read(positions)
    assert 1e-4 < (exact - rows).abs().max() < 2e-2  # what float32 angles cost at 128k
