"""Oracles: the numbers of LongRoPE's algorithm 1, the laws of chance, a convex loss whose least value is known."""

from itertools import pairwise

import numpy as np
import pytest

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Score
from longrope_search.methods.evolution import EvolutionSettings, crossover, evolution, mutant
from longrope_search.methods.seeds import seeds
from longrope_search.space import Point, Space
from toy_search import SMOLLM, Bowl, Course, drive, is_in, space_of

BOWL = Bowl(bottom=np.log(np.linspace(1.0, 3.6, 32)))
BRIEF = EvolutionSettings(iterations=8)


def run(space: Space, settings: EvolutionSettings = BRIEF, *, seed: int = 0, bowl: Bowl = BOWL) -> Course:
    return drive(evolution(space, seeds(space, SMOLLM), settings, np.random.default_rng(seed)), bowl)


@pytest.fixture(scope="module")
def published() -> Course:
    return run(space_of(), EvolutionSettings())


def test_the_published_search_asks_1344_times(published: Course) -> None:
    assert [len(batch.candidates) for batch in published.batches] == [64] + 40 * [32]
    assert EvolutionSettings().evaluations == len(published.candidates) == 1344


@pytest.mark.parametrize(("length", "population", "parents", "children"), [(524_288, 64, 32, 16), (524_289, 32, 16, 8)])
def test_above_512k_the_published_search_is_half_as_wide(
    length: int, population: int, parents: int, children: int
) -> None:
    found = EvolutionSettings.for_length(length)
    assert found == EvolutionSettings(
        population=population, parents=parents, mutants=children, crossovers=children, iterations=40
    )
    assert found.evaluations == population + 40 * 2 * children


def test_a_population_of_the_user_has_parents_and_children_in_proportion() -> None:
    found = EvolutionSettings.for_length(8192, population=20, iterations=3, patience=2)
    assert (found.parents, found.mutants, found.crossovers) == (10, 5, 5)
    course = run(space_of(), found)
    assert [len(batch.candidates) for batch in course.batches] == [20, 10, 10, 10]


def test_the_first_population_holds_the_seeds_themselves() -> None:
    space = space_of()
    first = run(space).batches[0].candidates
    assert list(first[:3]) == [space.candidate(seed) for seed in seeds(space, SMOLLM)]


def test_nothing_is_asked_twice_in_a_wide_space(published: Course) -> None:
    assert len({candidate.key for candidate in published.candidates}) == 1344


def test_a_pruned_candidate_never_becomes_a_parent_however_good_its_estimate() -> None:
    """Later ones are compared with parents on all passages, and a pruned one has no loss on most."""
    pruned: set[Candidate] = set()

    def estimated(candidate: Candidate) -> Score:
        if int(candidate.key, 16) % 3:  # two of three are scored on everything, which turns out badly
            return Score(loss=100 + BOWL(candidate).loss)
        pruned.add(candidate)
        return Score(loss=BOWL(candidate).loss, pruned=True)

    space = space_of()
    course = drive(evolution(space, seeds(space, SMOLLM), BRIEF, np.random.default_rng(0)), estimated)
    assert len(pruned) > 50
    assert not pruned & {rival for batch in course.batches for rival in batch.rivals}
    assert space.candidate(course.found) not in pruned


@pytest.mark.parametrize("name", ["longrope", "longrope2"])
@pytest.mark.parametrize("step", [1e-4, 0.01])
def test_everything_asked_for_is_a_point_of_the_space(name: str, step: float) -> None:
    space = space_of(name, step=step)
    assert all(is_in(space, candidate) for candidate in run(space).candidates)


def test_parents_are_the_best_of_everything_so_far(published: Course) -> None:
    known: list[tuple[float, Candidate]] = []
    for batch, losses in zip(published.batches, published.losses, strict=True):
        best = sorted(known, key=lambda pair: pair[0])[:32]
        assert list(batch.rivals) == [candidate for _, candidate in best]
        known += zip(losses, batch.candidates, strict=True)


def test_the_best_is_returned_and_the_least_loss_of_the_seeds_is_far_above_it(published: Course) -> None:
    least = min(loss for losses in published.losses for loss in losses)
    assert BOWL(space_of().candidate(published.found)).loss == least
    assert least < 0.15 * min(published.losses[0][:3])
    assert least < 0.25 * min(published.losses[0])  # the mutants of the seeds


def test_the_same_seed_asks_the_same_and_another_asks_others() -> None:
    one, same, other = (run(space_of(), seed=seed).candidates for seed in (3, 3, 4))
    assert [candidate.key for candidate in one] == [candidate.key for candidate in same]
    in_common = {candidate.key for candidate in one} & {candidate.key for candidate in other}
    assert len(in_common) <= 5  # the three seeds, and hardly more


def test_a_search_without_progress_ends_after_its_patience() -> None:
    space = space_of()
    settings = EvolutionSettings(patience=3)
    course = drive(
        evolution(space, seeds(space, SMOLLM), settings, np.random.default_rng(0)), lambda candidate: Score(loss=1.0)
    )
    assert len(course.batches) == 1 + 3


def test_patience_begins_anew_with_each_progress() -> None:
    course = run(space_of(), EvolutionSettings(patience=3))
    best = [min(min(losses) for losses in course.losses[: end + 1]) for end in range(len(course.losses))]
    runs = "".join("x" if after < before else "." for before, after in pairwise(best))
    assert "...." not in runs
    assert len(course.batches) == 41 or runs.endswith("...")


def test_crossover_takes_about_half_of_the_factors_from_each_parent() -> None:
    """The public code changes about one."""
    space, draw = space_of(), np.random.default_rng(0)
    one, other = (Point(factors=np.linspace(1.0, 4.1, 32).round(4) + off) for off in (0.0, 0.05))
    children = np.array([crossover(one, other, space, draw).factors for _ in range(500)])
    from_one, from_other = np.isclose(children, one.factors), np.isclose(children, other.factors)
    assert np.all(from_one ^ from_other)  # steps of 0.1: every mixture is monotone and needs no repair
    assert from_one.mean() == pytest.approx(0.5, abs=0.02)
    spread = np.sqrt(0.25 / 500)
    assert np.all(np.abs(from_one.mean(axis=0) - 0.5) < 5 * spread)
    changed = np.minimum(from_one.sum(axis=1), from_other.sum(axis=1))
    assert np.median(changed) > 10


def test_a_crossover_of_parents_that_cross_each_other_is_monotone() -> None:
    space, draw = space_of(), np.random.default_rng(0)
    one = Point(factors=np.r_[np.full(16, 1.0), np.full(16, 5.0)])
    other = Point(factors=np.linspace(2.0, 2.5, 32).round(4))
    for _ in range(200):
        assert is_in(space, space.candidate(crossover(one, other, space, draw)))


def test_mutation_redraws_three_factors_in_ten_between_their_neighbours_one_after_the_other() -> None:
    space, draw = space_of(), np.random.default_rng(0)
    parent = Point(factors=np.linspace(1.1, 4.9, 32).round(4))
    above = np.r_[parent.factors[1:], 5.0]
    children = np.array([mutant(parent, space, BRIEF, draw).factors for _ in range(500)])
    below = np.c_[np.ones(500), children[:, :-1]]
    changed = ~np.isclose(children, parent.factors, rtol=0, atol=1e-9)
    assert changed.mean() == pytest.approx(0.3, abs=0.02)
    assert np.all(children >= below - 1e-9)
    assert np.all(children <= above + 1e-9)
    place = ((children - below) / (above - below))[changed]  # uniform between the two
    assert place.mean() == pytest.approx(0.5, abs=0.02)
    assert place.var() == pytest.approx(1 / 12, abs=0.01)


def test_longrope2_redraws_the_critical_pair_with_the_same_probability() -> None:
    space, draw = space_of("longrope2"), np.random.default_rng(0)
    parent = space.projected(Point(factors=np.linspace(4.0, 8.0, 32), pivot=17))
    pivots = np.array([mutant(parent, space, BRIEF, draw).pivot for _ in range(2000)])
    others = [14, 15, 16, 18, 19, 20]  # drawn from seven, one of which is the parent's own
    assert np.mean(pivots != 17) == pytest.approx(0.3 * 6 / 7, abs=0.04)
    assert all(np.mean(pivots == pivot) == pytest.approx(0.3 / 7, abs=0.02) for pivot in others)


def test_a_crossover_in_longrope2_has_the_critical_pair_of_one_of_its_parents() -> None:
    space, draw = space_of("longrope2"), np.random.default_rng(0)
    one, other = seeds(space, SMOLLM)[0], seeds(space, SMOLLM)[-1]
    pivots = np.array([crossover(one, other, space, draw).pivot for _ in range(400)])
    assert set(pivots) == {14, 20}
    assert np.mean(pivots == 14) == pytest.approx(0.5, abs=0.125)


def test_longrope2_finds_the_critical_pair_of_a_loss_that_has_one() -> None:
    space = space_of("longrope2")
    first, *_, last = seeds(space, SMOLLM)
    bowl = Bowl(bottom=np.log(last.factors))
    course = drive(evolution(space, [first], BRIEF, np.random.default_rng(0)), bowl)
    assert (first.pivot, course.found.pivot, last.pivot) == (14, 20, 20)


def test_a_space_with_less_points_than_the_search_asks_for_comes_to_its_end() -> None:
    space = space_of(scale=1.0, largest=1.01, step=0.01)  # 33 points
    course = run(space, EvolutionSettings(population=16, parents=8, mutants=4, crossovers=4, iterations=10))
    assert len(course.batches) == 11
    assert len({candidate.key for candidate in course.candidates}) <= 33
