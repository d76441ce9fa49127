"""Oracles: convex losses with exact derivatives, finite differences for the chain rule, the cosine written out."""

import math

import numpy as np
import pytest

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Gradient, Score
from longrope_search.methods.gradient import GradientSettings, _of_free, gradient
from longrope_search.methods.seeds import seeds
from longrope_search.space import Point, Space
from toy_search import SMOLLM, Bowl, Course, drive, is_in, space_of

BOWL = Bowl(bottom=np.log(np.linspace(1.0, 3.6, 32)), attention=math.log(1.1))


def run(space: Space, *, bowl: Bowl = BOWL, in_all: int = 5, **settings: float) -> Course:
    asked = GradientSettings(**{"steps": 40, **settings})
    return drive(gradient(space, seeds(space, SMOLLM), asked, passages=in_all), bowl)


def test_a_convex_loss_is_brought_far_below_that_of_the_best_seed() -> None:
    space = space_of()
    course = run(space)
    assert BOWL(space.candidate(course.found)).loss < 0.01 * min(course.losses[0])
    assert [len(batch.candidates) for batch in course.batches] == [3] + 40 * [1] + [3]


def test_a_descent_begins_with_the_best_seed_and_scores_its_last_point_on_all_passages() -> None:
    space = space_of()
    course = run(space)
    first = course.batches[0].candidates[int(np.argmin(course.losses[0]))]
    assert course.batches[1].candidates[0] == first
    assert course.candidates[-1] == space.candidate(course.found)  # the last is the best here
    assert course.batches[0].passages is course.batches[-1].passages is None  # both on all passages
    assert [batch.gradient for batch in course.batches] == [False] + 40 * [True] + [False]


def test_a_descent_that_ends_above_its_seed_returns_the_seed() -> None:
    """Steps see a few passages each, and what they lead to may be worse on all of them."""
    space = space_of()
    best = seeds(space, SMOLLM)[1]
    bowl = Bowl(bottom=np.log(best.factors), attention=math.log(1.1))

    def misled(candidate: Candidate) -> Score:
        slopes = Gradient(log_factors=np.ones(32), log_attention_factor=0.0)
        return Score(loss=bowl(candidate).loss, gradient=slopes)

    course = drive(gradient(space, seeds(space, SMOLLM), GradientSettings(steps=40), passages=5), misled)
    assert course.losses[-1][0] > 0.1
    assert space.candidate(course.found) == space.candidate(best)


@pytest.mark.parametrize("name", ["longrope", "longrope2"])
@pytest.mark.parametrize("step", [1e-4, 0.01])
def test_every_step_is_a_point_of_the_space(name: str, step: float) -> None:
    space = space_of(name, step=step)
    outside = Bowl(bottom=np.log(np.r_[np.linspace(9.0, 0.2, 16), np.full(16, 20.0)]))  # falls, and past both bounds
    assert all(is_in(space, candidate) for candidate in run(space, bowl=outside).candidates)


def test_a_bottom_outside_the_space_is_approached_to_its_closest_point() -> None:
    space = space_of()
    bottom = np.r_[np.full(10, 0.2), np.linspace(3.0, 2.0, 12), np.full(10, 20.0)]
    course = run(space, bowl=Bowl(bottom=np.log(bottom), attention=math.log(1.1)), steps=160)
    closest = space.projected(Point(factors=bottom)).factors
    np.testing.assert_allclose(course.found.factors, closest, rtol=0.03)


def test_the_same_search_asks_the_same_again() -> None:
    one, same = ([candidate.key for candidate in run(space_of()).candidates] for _ in range(2))
    assert one == same


@pytest.mark.parametrize("pivot", [0, 1, 14, 20])
def test_slopes_of_free_factors_equal_finite_differences_through_the_powers_below_the_pivot(pivot: int) -> None:
    draw = np.random.default_rng(0)
    bottom, weights = draw.normal(size=32), draw.uniform(0.5, 2.0, 32)
    free = np.sort(draw.uniform(1.0, 2.0, 32 - pivot))

    def logs(at: np.ndarray) -> np.ndarray:
        below = [pair / pivot * at[0] for pair in range(pivot)]
        return np.r_[below, at]

    def loss(at: np.ndarray) -> float:
        return float((weights * (logs(at) - bottom) ** 2).sum())

    small = 1e-5
    expected = [(loss(free + small * one) - loss(free - small * one)) / (2 * small) for one in np.eye(32 - pivot)]
    found = _of_free(2 * weights * (logs(free) - bottom), pivot)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


def test_longrope2_learns_its_critical_factor_from_the_pairs_below_it() -> None:
    space = space_of("longrope2")
    best = space.projected(Point(factors=np.full(32, 6.0), pivot=20))
    below = Bowl(bottom=np.log(best.factors), weights=(np.arange(32) < 20).astype(float))
    course = drive(gradient(space, seeds(space, SMOLLM)[-1:], GradientSettings(steps=40), passages=5), below)
    assert course.candidates[0].factors[20] == 4.0
    assert course.found.factors[20] > 4.3  # those above have no slope and hold it back
    assert course.losses[-1][0] < 0.85 * course.losses[0][0]


@pytest.mark.parametrize("passages", [1, 5])
def test_steps_take_the_passages_in_turn_one_by_one(passages: int) -> None:
    course = run(space_of(), in_all=passages, steps=35)
    assert [batch.passages for batch in course.batches[1:-1]] == [(step % passages,) for step in range(35)]


def test_steps_become_smaller_by_a_cosine_that_ends_at_about_nothing() -> None:
    """Of a loss with the same slope everywhere each of Adam's steps is the rate itself."""
    space = space_of(scale=64.0)

    def slope(candidate: Candidate) -> Score:
        logs = np.log(np.asarray(candidate.factors))
        slopes = Gradient(log_factors=np.ones(32), log_attention_factor=0.0)
        return Score(loss=float(logs.sum()), gradient=slopes)

    pi = seeds(space, SMOLLM)[:1]
    course = drive(gradient(space, pi, GradientSettings(steps=20, rate=0.05), passages=1), slope)
    logs = np.log([candidate.factors[0] for candidate in course.candidates[1:22]])
    expected = [0.05 * 0.5 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    np.testing.assert_allclose(-np.diff(logs), expected, rtol=0, atol=1e-5)
    assert expected[-1] < 0.01 * expected[0]


def test_the_attention_factor_is_learned_only_when_asked() -> None:
    space = space_of(attention_factor=1.1)
    bowl = Bowl(bottom=BOWL.bottom, attention=math.log(1.4))
    assert {candidate.attention_factor for candidate in run(space, bowl=bowl).candidates} == {1.1}
    learned = run(space, bowl=bowl, learn_attention_factor=True)
    assert learned.found.attention_factor == pytest.approx(1.4, rel=0.05)
    assert BOWL(space.candidate(learned.found)).loss < 0.5
