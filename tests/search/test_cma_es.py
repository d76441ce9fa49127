"""Oracle: a convex loss whose least value is known, and what a correction by knots is, written out."""

import numpy as np
import pytest

from longrope_search.candidate import Candidate
from longrope_search.methods.cma_es import CmaSettings, cma_es, corrected
from longrope_search.methods.engine import Score
from longrope_search.methods.seeds import seeds
from longrope_search.space import Point, Space
from toy_search import SMOLLM, Bowl, Course, drive, geometry, is_in, plain, space_of

BOWL = Bowl(bottom=np.log(np.linspace(1.0, 3.6, 32)))


def run(space: Space, *, seed: int = 0, bowl: Bowl = BOWL, **settings: float) -> Course:
    return drive(
        cma_es(space, seeds(space, SMOLLM), CmaSettings(**{"evaluations": 160, "knots": 12, **settings}), seed), bowl
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("spread", "left"), [(0.25, 0.8), (0.1, 0.3)])  # of the best seed's loss
def test_a_convex_loss_is_brought_below_that_of_the_seeds(seed: int, spread: float, left: float) -> None:
    space = space_of()
    course = run(space, seed=seed, spread=spread)
    assert BOWL(space.candidate(course.found)).loss < left * min(course.losses[0])


def test_what_is_returned_is_the_best_of_all_that_was_asked() -> None:
    space = space_of()
    course = run(space)
    least = min(loss for losses in course.losses for loss in losses)
    assert BOWL(space.candidate(course.found)).loss == least


def test_a_seed_that_nothing_betters_is_returned() -> None:
    space = space_of()
    best = seeds(space, SMOLLM)[1]
    course = run(space, bowl=Bowl(bottom=np.log(best.factors)))
    assert space.candidate(course.found) == space.candidate(best)


def test_a_pruned_candidate_is_never_returned() -> None:
    space = space_of()
    lowest = Score(loss=-1.0, pruned=True)
    engine = cma_es(space, seeds(space, SMOLLM), CmaSettings(evaluations=40), 0)
    course = drive(engine, lambda candidate: BOWL(candidate) if candidate.origin != "cma" else lowest)
    assert course.found.origin == "ntk"  # the best of the seeds


@pytest.mark.parametrize("name", ["longrope", "longrope2"])
@pytest.mark.parametrize("step", [1e-4, 0.01])
def test_everything_asked_for_is_a_point_of_the_space(name: str, step: float) -> None:
    space = space_of(name, step=step)
    assert all(is_in(space, candidate) for candidate in run(space).candidates)


def test_the_same_seed_asks_the_same_and_another_asks_others() -> None:
    one, same, other = ([candidate.key for candidate in run(space_of(), seed=seed).candidates] for seed in (0, 0, 1))
    assert one == same
    assert set(one) & set(other) == set(one[:3])  # the closed forms


@pytest.mark.parametrize("evaluations", [1, 3, 4, 14, 40, 160])
def test_no_more_candidates_are_asked_for_than_the_settings_allow(evaluations: int) -> None:
    course = run(space_of(), evaluations=evaluations)
    assert len(course.candidates) == max(3, evaluations)  # the seeds at least
    least = min(loss for losses in course.losses for loss in losses)
    assert BOWL(space_of().candidate(course.found)).loss == least


def test_random_numbers_that_others_draw_meanwhile_change_nothing_and_theirs_stay_as_they_were() -> None:
    """A search that is resumed asks the same again, whatever the model drew while it was measured."""
    settings = CmaSettings(evaluations=60)
    space = space_of()
    alone = drive(cma_es(space, seeds(space, SMOLLM), settings, 0), BOWL)
    np.random.seed(7)
    theirs: list[float] = []

    def drawing(candidate: Candidate) -> Score:
        theirs.append(np.random.random())
        return BOWL(candidate)

    beside = drive(cma_es(space, seeds(space, SMOLLM), settings, 0), drawing)
    assert [candidate.key for candidate in beside.candidates] == [candidate.key for candidate in alone.candidates]
    assert theirs == np.random.RandomState(7).random_sample(len(theirs)).tolist()


def test_longrope2_keeps_the_critical_pair_of_its_best_seed_and_betters_it() -> None:
    space = space_of("longrope2")
    bottom = space.projected(Point(factors=np.linspace(4.0, 7.0, 32), pivot=17))
    course = run(space, bowl=Bowl(bottom=np.log(bottom.factors)))
    best = seeds(space, SMOLLM)[int(np.argmin(course.losses[0]))]
    assert course.found.pivot == best.pivot
    assert min(min(losses) for losses in course.losses[1:]) < 0.5 * min(course.losses[0])


def test_a_correction_is_a_polygon_through_its_knots_in_the_logarithm() -> None:
    space = space_of(scale=4.0)
    start = Point(factors=np.linspace(1.5, 3.0, 32))
    heights = np.array([0.0, 0.1, 0.2])  # at pairs 0, 15.5 and 31
    expected = start.factors * np.exp([0.2 * pair / 31 for pair in range(32)])
    np.testing.assert_allclose(corrected(start, space, heights).factors, expected, rtol=0, atol=5.1e-5)


@pytest.mark.parametrize("free", [1, 2, 5])
def test_fewer_free_factors_than_knots_are_corrected_as_well(free: int) -> None:
    rope = geometry(64, 1e5, 8192)
    space = Space.of("longrope2", rope, plain(rope), length=32_768, step=1e-4, attention_factor=1.0)
    start = Point(factors=np.full(32, 5.0), pivot=32 - free)
    found = corrected(start, space, np.full(12, np.log(1.2))).factors
    np.testing.assert_allclose(found[32 - free :], 6.0, rtol=1e-9)
