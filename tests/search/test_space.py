"""Oracles: the min-max formula of isotonic regression, all monotone points of a coarse grid, the papers' formulas."""

import math
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longrope_search.candidate import Candidate
from longrope_search.space import Point, Space, Vector, critical_pairs
from longrope_vllm import Geometry, Tier
from toy_search import LLAMA3, PHI3, SMOLLM, geometry, plain, repeatable, space_of

SMALL = geometry(12, 1e4, 256)
VECTORS = st.lists(st.floats(0.05, 50.0), min_size=6, max_size=6).map(np.array)
STEPS = st.sampled_from([1e-4, 0.01])


def isotonic(values: Vector) -> Vector:
    """The closest sequence that does not decrease: max over j <= i of min over k >= i of the mean from j to k."""
    count = len(values)
    return np.array(
        [
            max(min(values[first : last + 1].mean() for last in range(at, count)) for first in range(at + 1))
            for at in range(count)
        ]
    )


@repeatable
@given(factors=VECTORS, step=STEPS)
def test_projection_is_isotonic_regression_of_the_logarithm_within_the_bounds_up_to_half_a_step(
    factors: Vector, step: float
) -> None:
    space = space_of(rope=SMALL, step=step)
    expected = np.exp(isotonic(np.log(factors))).clip(1.0, 5.0)
    found = space.projected(Point(factors=factors)).factors
    np.testing.assert_allclose(found, expected, rtol=0, atol=step / 2 + 1e-9)


@repeatable
@given(factors=st.lists(st.floats(0.5, 5.0), min_size=3, max_size=3).map(np.array))
def test_no_monotone_point_of_a_coarse_grid_is_closer_than_the_projection(factors: Vector) -> None:
    space = space_of(rope=geometry(6, 1e4, 256), scale=2.0, step=0.25)
    grid = 1 + 0.25 * np.arange(7)  # up to 2.5
    rivals = np.array(list(combinations_with_replacement(grid, 3)))
    best = np.linalg.norm(np.log(rivals) - np.log(factors), axis=1).min()
    found = np.linalg.norm(np.log(space.projected(Point(factors=factors)).factors) - np.log(factors))
    rounding = 2 * math.log(1.125 / math.sqrt(1.25))  # half way between two steps is not so in the logarithm
    assert best - 1e-12 <= found <= best + math.sqrt(3) * rounding


@repeatable
@given(factors=VECTORS, step=STEPS, name=st.sampled_from(["longrope", "longrope2"]))
def test_what_is_projected_does_not_decrease_and_keeps_the_bounds_and_the_grid(
    factors: Vector, step: float, name: str
) -> None:
    space = space_of(name, rope=SMALL, step=step)
    for pivot in space.pivots:
        found = space.projected(Point(factors=factors, pivot=pivot)).factors
        low, high = (1.0, 5.0) if name == "longrope" else (4.0, 8.0)
        assert np.all(np.diff(found) >= 0)
        assert np.all((low <= found[pivot:]) & (found[pivot:] <= high))
        np.testing.assert_allclose(found[pivot:] / step, np.round(found[pivot:] / step), rtol=0, atol=1e-6)


@repeatable
@given(factors=VECTORS, step=STEPS, name=st.sampled_from(["longrope", "longrope2"]))
def test_projecting_twice_changes_nothing_more(factors: Vector, step: float, name: str) -> None:
    space = space_of(name, rope=SMALL, step=step)
    for pivot in space.pivots:
        once = space.projected(Point(factors=factors, pivot=pivot))
        np.testing.assert_array_equal(space.projected(once).factors, once.factors)


@repeatable
@given(steps=st.lists(st.integers(0, 40_000), min_size=6, max_size=6).map(sorted))
def test_a_point_of_the_space_is_left_alone(steps: list[int]) -> None:
    factors = np.array([round(1 + 1e-4 * step, 4) for step in steps])
    np.testing.assert_array_equal(space_of(rope=SMALL).projected(Point(factors=factors)).factors, factors)


@pytest.mark.parametrize(
    ("name", "scale", "bounds"),
    [
        ("longrope", 1.0, (1.0, 1.25)),
        ("longrope", 32.0, (1.0, 40.0)),
        ("longrope2", 16.0, (16.0, 32.0)),
        ("longrope", 0.5, (1.0, 1.25)),  # short of the window the scale counts as 1
    ],
)
def test_the_bounds_are_the_published_ones(name: str, scale: float, bounds: tuple[float, float]) -> None:
    space = space_of(name, scale=scale)
    assert (space.smallest, space.largest) == bounds
    ends = space.projected(Point(factors=np.array([1e-3] + [1e3] * 31), pivot=space.pivots[0]))
    assert ends.factors[-1] == bounds[1]
    assert space.projected(Point(factors=np.full(32, 1e-3), pivot=space.pivots[0])).factors[-1] == bounds[0]


def test_a_bound_of_the_user_replaces_the_published_one() -> None:
    assert space_of(largest=1.5).projected(Point(factors=np.full(32, 9.0))).factors.max() == 1.5


@pytest.mark.parametrize(
    ("rope", "first", "last"),
    [(SMOLLM, 14, 20), (LLAMA3, 24, 35), (PHI3, 19, 31)],  # the last as printed in LongRoPE2, section 3.1
)
def test_critical_pairs_reach_from_ten_periods_to_the_published_theoretical_pair(
    rope: Geometry, first: int, last: int
) -> None:
    assert critical_pairs(rope, plain(rope)) == tuple(range(first, last + 1))


@repeatable
@given(
    window=st.integers(1, 300_000),
    rotary_dim=st.sampled_from([16, 64, 96, 128, 256]),
    base=st.sampled_from([1e4, 1e5, 5e5, 1e6]),
)
@example(window=768, rotary_dim=96, base=1e4)  # a tenth of it is no whole number, and just past a pair
@example(window=8, rotary_dim=64, base=1e4)
def test_critical_pairs_follow_the_formulas_of_longrope2_for_any_window(
    window: int, rotary_dim: int, base: float
) -> None:
    ends = [math.ceil(rotary_dim / 2 * math.log(window / turn, base)) for turn in (20 * math.pi, 2 * math.pi)]
    first, last = (min(max(pair, 1), rotary_dim // 2 - 1) for pair in ends)
    rope = geometry(rotary_dim, base, window)
    assert critical_pairs(rope, plain(rope)) == tuple(range(first, last + 1))


@pytest.mark.parametrize("pivot", [14, 17, 20])
def test_below_the_critical_pair_factors_are_powers_of_the_critical_one(pivot: int) -> None:
    space = space_of("longrope2", scale=2.0)
    draw = np.random.default_rng(0)
    found = space.projected(Point(factors=draw.uniform(0.5, 6.0, 32), pivot=pivot)).factors
    critical = found[pivot]
    assert 2.0 <= critical <= 4.0
    expected = [critical ** (pair / pivot) for pair in range(pivot)]
    np.testing.assert_allclose(found[:pivot], expected, rtol=1e-12)
    assert found[0] == 1.0


def test_what_stands_below_the_critical_pair_does_not_count() -> None:
    space = space_of("longrope2", scale=2.0)
    above = np.linspace(2.0, 4.0, 12)
    one, other = (
        space.projected(Point(factors=np.concatenate([below, above]), pivot=20)).factors
        for below in (np.full(20, 0.1), np.full(20, 70.0))
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("head_size", "rotary_dim"), [(64, 64), (96, 96), (128, 128), (256, 256), (128, 96), (64, 16), (80, 32)]
)
@pytest.mark.parametrize("name", ["longrope", "longrope2"])
def test_there_is_a_factor_for_each_rotated_pair(name: str, head_size: int, rotary_dim: int) -> None:
    rope = geometry(head_size, 1e4, 4096, rotary_dim=rotary_dim)
    space = space_of(name, rope=rope)
    assert space.pairs == rotary_dim // 2
    for pivot in space.pivots:
        point = Point(factors=np.geomspace(1.0, 4.0, space.pairs), pivot=pivot)
        assert len(space.candidate(point).factors) == rotary_dim // 2
        assert pivot < space.pairs


def tuned_footing() -> Tier:
    """A model that was fine-tuned to 32k with factors of its own."""
    return Tier(max_length=32_768, factors=tuple(np.geomspace(1.0, 4.0, 32).tolist()), attention_factor=1.1)


def test_found_factors_multiply_those_the_model_was_tuned_with() -> None:
    space = space_of(footing=tuned_footing(), scale=4.0)
    assert space.scale == 4.0  # of the tuned length, not of the window
    relative = np.linspace(1.0, 4.0, 32).round(4)
    found = space.candidate(Point(factors=relative))
    np.testing.assert_allclose(found.factors, np.geomspace(1.0, 4.0, 32) * relative, rtol=1e-12)


@repeatable
@given(first=VECTORS, second=VECTORS)
def test_two_stages_reach_at_most_the_product_of_their_bounds(first: Vector, second: Vector) -> None:
    below = space_of(rope=SMALL, scale=4.0)
    tier = below.candidate(Point(factors=first)).tier(below.length)
    found = np.asarray(space_of(rope=SMALL, footing=tier, scale=2.0).candidate(Point(factors=second)).factors)
    assert np.all(np.diff(found) >= -1e-12)
    assert np.all((found >= 1.0) & (found <= 5.0 * 2.5 + 1e-9))


def test_a_candidate_is_what_was_projected_with_the_numbers_of_its_space() -> None:
    space = space_of(start_tokens=7)
    point = Point(factors=np.full(32, 99.0), attention_factor=1.2, origin="somewhere")
    found = space.candidate(point)
    assert found == Candidate(factors=(5.0,) * 32, attention_factor=1.2, start_tokens=7)
    assert found.origin == "somewhere"
    assert space.candidate(point, start_tokens=0).start_tokens == 0
    assert found.tier(4) == Tier(max_length=4, factors=(5.0,) * 32, attention_factor=1.2, start_tokens=4)


def test_a_pretrained_model_stands_on_its_own_window() -> None:
    space = Space.of("longrope", SMOLLM, plain(SMOLLM), length=131_072, step=1e-4, attention_factor=1.0)
    assert (space.scale, space.largest, space.pivots) == (16.0, 20.0, (0,))
    assert space.projected(replace(Point(factors=np.full(32, 16.0)), origin="pi")).origin == "pi"
