"""The rules of tiers. Oracle: the rule as stated, on factors small enough to read."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longrope_vllm import Factors, Geometry, Origin, Tier
from longrope_vllm.errors import FactorsError, LongRopeError
from longrope_vllm.factors import own_tier
from longrope_vllm.rope import BASELINES

GEOMETRY = Geometry(head_size=8, rotary_dim=8, base=1e4, trained_window=4096, max_positions=4096, rope_type="default")


def factors_of(*tiers: Tier, **changes: Any) -> Factors:
    fields: dict[str, Any] = {"rotary_dim": 8, "base": 1e4, "trained_window": 4096, "origin": Origin(method="search")}
    return Factors(tiers=tiers, **(fields | changes))


def tier(max_length: int, factor: float = 1.0, **changes: Any) -> Tier:
    return Tier(max_length=max_length, factors=(factor,) * 4, **changes)


def test_factors_of_increasing_tiers_are_accepted() -> None:
    factors = factors_of(tier(4096), tier(8192, 2.0), tier(131072, 32.0, attention_factor=1.19, start_tokens=4))
    assert factors.max_length == 131072


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_factor_that_is_no_positive_number_is_named_by_its_place(bad: float) -> None:
    with pytest.raises(FactorsError, match=r"factor 2 of the tier up to 8192"):
        Tier(max_length=8192, factors=(1.0, 1.0, bad, 1.0))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_an_attention_factor_that_is_no_positive_number_is_refused(bad: float) -> None:
    with pytest.raises(FactorsError, match="attention_factor"):
        tier(8192, attention_factor=bad)


@pytest.mark.parametrize("bad", [0, -1])
def test_a_tier_holds_at_least_one_token(bad: int) -> None:
    with pytest.raises(FactorsError, match="max_length"):
        tier(bad)


@pytest.mark.parametrize("bad", [-1, 8193])
def test_start_tokens_lie_within_the_tier(bad: int) -> None:
    with pytest.raises(FactorsError, match="start_tokens"):
        tier(8192, start_tokens=bad)


def test_factors_below_one_and_not_monotone_are_allowed_as_released_checkpoints_have_them() -> None:
    released = (0.9978, 1.05, 1.02, 3.0)
    assert factors_of(Tier(max_length=8192, factors=released)).tiers[0].factors == released


def test_no_tier_at_all_is_refused() -> None:
    with pytest.raises(FactorsError, match="at least one tier"):
        factors_of()


def test_a_wrong_number_of_factors_names_both_numbers_and_the_tier() -> None:
    with pytest.raises(FactorsError, match=r"Expected 4 factors .* found 3 in the tier up to 8192"):
        factors_of(tier(4096), Tier(max_length=8192, factors=(1.0, 1.0, 1.0)))


@pytest.mark.parametrize("lengths", [(8192, 4096), (4096, 4096)])
def test_tiers_that_do_not_grow_are_refused(lengths: tuple[int, int]) -> None:
    with pytest.raises(FactorsError, match=f"found {lengths[1]} after {lengths[0]}"):
        factors_of(*(tier(length) for length in lengths))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("rotary_dim", 0),
        ("rotary_dim", 9),
        ("base", 1.0),
        ("base", math.nan),
        ("base", math.inf),
        ("trained_window", 0),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(field: str, bad: float) -> None:
    with pytest.raises(FactorsError, match=field):
        factors_of(tier(4096), **{field: bad})


def test_a_own_tier_has_unit_factors_and_magnitude() -> None:
    assert own_tier(GEOMETRY).is_plain
    assert not tier(4096, attention_factor=1.19).is_plain
    assert not Tier(max_length=4096, factors=(1.0, 1.0, 1.0, 1.0001)).is_plain


@given(
    lengths=st.lists(st.integers(1, 100_000), min_size=1, max_size=5, unique=True).map(sorted),
    asked=st.integers(0, 110_000),
)
def test_the_tier_of_a_length_is_the_shortest_that_holds_it(lengths: list[int], asked: int) -> None:
    factors = factors_of(*(tier(length) for length in lengths))
    holding = [length for length in lengths if length >= asked]
    if holding:
        assert factors.tier_for(asked).max_length == min(holding)
    else:
        with pytest.raises(FactorsError, match=f"found {asked}"):
            factors.tier_for(asked)


def test_the_boundary_belongs_to_the_shorter_tier() -> None:
    factors = factors_of(tier(4096), tier(8192, 2.0))
    assert [factors.tier_for(length).max_length for length in (4095, 4096, 4097)] == [4096, 4096, 8192]


@pytest.mark.parametrize(
    "change",
    [{"rotary_dim": 16, "head_size": 16}, {"base": 5e5}, {"trained_window": 8192}],
    ids=lambda c: next(iter(c)),
)
def test_factors_of_another_rope_do_not_fit(change: dict[str, Any]) -> None:
    factors = factors_of(tier(4096))
    factors.check_fits(GEOMETRY)
    with pytest.raises(FactorsError, match=next(iter(change))):
        factors.check_fits(dataclasses.replace(GEOMETRY, **change))


def test_the_own_tier_is_put_in_front_of_factors_that_start_above_the_window() -> None:
    factors = factors_of(tier(131072, 32.0)).with_own_tier(own_tier(GEOMETRY))
    assert factors.tiers == (own_tier(GEOMETRY), tier(131072, 32.0))


@pytest.mark.parametrize("first", [2048, 4096])
def test_factors_that_start_within_the_window_are_left_alone(first: int) -> None:
    factors = factors_of(tier(first, 1.1), tier(131072, 32.0))
    assert factors.with_own_tier(own_tier(GEOMETRY)) is factors


@pytest.mark.parametrize("method", BASELINES)
def test_a_baseline_makes_a_own_tier_and_one_of_its_factors(method: str) -> None:
    factors = Factors.from_baseline(method, GEOMETRY, 16384, model="some/model")
    factors.check_fits(GEOMETRY)
    short, long = factors.tiers
    baseline = BASELINES[method](GEOMETRY, 4.0)
    assert short == own_tier(GEOMETRY)
    assert torch.equal(torch.tensor(long.factors, dtype=torch.float64), baseline.factors)
    assert (long.max_length, long.attention_factor) == (16384, baseline.attention_factor)
    assert (factors.origin.method, factors.origin.model) == (method, "some/model")


def test_an_unknown_baseline_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FactorsError, match=r"none, pi, ntk.* found 'magic'"):
        Factors.from_baseline("magic", GEOMETRY, 16384)


@pytest.mark.parametrize("length", [1, 4096])
def test_a_baseline_within_the_trained_window_is_refused(length: int) -> None:
    with pytest.raises(FactorsError, match="4096"):
        Factors.from_baseline("yarn", GEOMETRY, length)


def test_errors_are_one_tree() -> None:
    assert issubclass(FactorsError, LongRopeError)


def test_a_tier_and_its_factors_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tier(4096).max_length = 1  # type: ignore[misc]
