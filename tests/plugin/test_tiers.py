"""The policy alone: which tier, which rows, which cache key. No engine, no tensor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.factors import Factors, Origin, Tier
from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.rope import BLOCK

FACTORS = Factors(
    rotary_dim=4,
    base=10_000.0,
    trained_window=100,
    tiers=(
        Tier(max_length=100, factors=(1.0, 1.0)),
        Tier(max_length=400, factors=(1.0, 4.0), attention_factor=1.1),
        Tier(max_length=1600, factors=(1.2, 16.0), attention_factor=1.2),
    ),
    origin=Origin(method="test"),
)


@given(length=st.integers(1, 1600))
def test_a_length_gets_the_shortest_tier_that_holds_it(length: int) -> None:
    served = ServedTiers.from_factors(FACTORS, 1600)
    assert served.tiers[served.index_for(length)] == FACTORS.tier_for(length)


@pytest.mark.parametrize(("length", "index"), [(99, 0), (100, 0), (101, 1), (400, 1), (401, 2), (1600, 2)])
def test_the_boundary_itself_belongs_to_the_shorter_tier(length: int, index: int) -> None:
    assert ServedTiers.from_factors(FACTORS, 1600).index_for(length) == index


@given(max_model_len=st.integers(1, 1600))
def test_tiers_lie_in_the_table_longest_first_in_whole_blocks_without_overlap(max_model_len: int) -> None:
    served = ServedTiers.from_factors(FACTORS, max_model_len)
    end = 0
    for offset, tier in zip(reversed(served.row_offsets), reversed(served.tiers), strict=True):
        assert offset == end
        assert offset % BLOCK == 0
        end = offset + -(-tier.max_length // BLOCK) * BLOCK


def test_a_server_shorter_than_the_checkpoint_drops_the_tiers_it_cannot_reach() -> None:
    assert [tier.max_length for tier in ServedTiers.from_factors(FACTORS, 300).tiers] == [100, 300]
    assert [tier.max_length for tier in ServedTiers.from_factors(FACTORS, 100).tiers] == [100]
    assert [tier.max_length for tier in ServedTiers.from_factors(FACTORS, 50).tiers] == [50]


def test_a_server_longer_than_the_longest_tier_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"up to 1600, the longest tier .* found 1601"):
        ServedTiers.from_factors(FACTORS, 1601)


def test_cache_keys_differ_between_tiers_and_keep_the_clients_salt() -> None:
    served = ServedTiers.from_factors(FACTORS, 1600)
    salts = [served.cache_salt(index, client) for index in range(3) for client in (None, "mine")]
    assert len(set(salts)) == len(salts)
    assert served.cache_salt(2, None) is None  # as on a stock server of this checkpoint


def test_no_client_can_salt_itself_into_another_tier() -> None:
    served = ServedTiers.from_factors(FACTORS, 1600)
    honest = [served.cache_salt(index, client) for index in range(3) for client in (None, "mine")]
    forged = [served.cache_salt(index, salt) for index in range(3) for salt in honest if salt]
    assert not set(honest) & set(forged)


def test_the_same_rotation_has_the_same_identity_whatever_the_server_length() -> None:
    assert (
        ServedTiers.from_factors(FACTORS, 300).identity(1)
        == ServedTiers.from_factors(FACTORS, 400).identity(1)
        != ServedTiers.from_factors(FACTORS, 1600).identity(2)
    )
