"""Oracle: simulated searches whose full losses are known, so that every wrong decision can be counted.

Loss of a candidate on a passage: its quality + what the passage costs everyone + noise.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from longrope_search.scoring.pruning import rungs, standing

TRIALS = 400


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Shares over many simulated batches."""

    best_pruned: float
    """Of the candidates that are truly among the best ``keep``."""
    worse_pruned: float
    """Of those whose mean is above that of the last of the best by six standard errors or more."""


def simulate(*, keep: int, candidates: int, passages: int, noise: float, heavy: bool = False) -> Counted:
    """Qualities have a spread of 1, passages too; decisions are made after two passages."""
    draw = np.random.default_rng(0)
    wrong = best_in_all = right = worse_in_all = 0
    for _ in range(TRIALS):
        shape = (candidates, passages)
        disturbed = draw.standard_t(3, size=shape) / np.sqrt(3) if heavy else draw.normal(size=shape)
        losses = draw.normal(size=(candidates, 1)) + draw.normal(size=passages) + noise * disturbed
        clearly = np.array(standing(losses[:, :2], keep=keep, passages=passages).clearly)
        means = losses.mean(axis=1)
        best = np.argsort(means)[:keep]
        worse = means > means[best[-1]] + 6 * noise * np.sqrt(1 / 2 - 1 / passages)
        wrong, best_in_all = wrong + clearly[best].sum(), best_in_all + keep
        right, worse_in_all = right + clearly[worse].sum(), worse_in_all + worse.sum()
    assert worse_in_all > 20
    return Counted(best_pruned=wrong / best_in_all, worse_pruned=right / worse_in_all)


@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("heavy", [False, True])
def test_of_those_that_a_population_would_keep_at_most_three_in_a_thousand_are_pruned(
    noise: float, heavy: bool
) -> None:
    found = simulate(keep=32, candidates=64, passages=5, noise=noise, heavy=heavy)
    assert found.best_pruned < 0.003
    assert found.worse_pruned > 0.6


@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("candidates", [3, 10])
def test_where_one_is_kept_it_is_pruned_in_three_of_a_hundred_batches_at_most(noise: float, candidates: int) -> None:
    found = simulate(keep=1, candidates=candidates, passages=5, noise=noise)
    assert found.best_pruned < 0.03
    assert found.worse_pruned > 0.75


def test_without_noise_all_that_are_worse_are_pruned_and_no_other() -> None:
    qualities = np.random.default_rng(0).permutation(20) / 7
    losses = qualities[:, None] + np.array([3.0, 1.0])
    found = standing(losses, keep=8, passages=5)
    assert found.clearly == tuple(bool(quality > 7.5 / 7) for quality in qualities)
    assert qualities[found.reference] == 7 / 7
    np.testing.assert_allclose(found.worse, qualities - 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("keep", [1, 4, 8])
def test_equal_candidates_are_never_pruned(keep: int) -> None:
    losses = np.tile(np.random.default_rng(0).normal(size=2), (8, 1))
    assert not any(standing(losses, keep=keep, passages=5).clearly)


def test_none_is_pruned_where_all_are_to_be_kept() -> None:
    losses = np.random.default_rng(0).normal(size=(6, 2))
    assert not any(standing(losses, keep=6, passages=5).clearly)
    assert not any(standing(losses, keep=60, passages=5).clearly)
    assert not any(standing(losses[:1], keep=1, passages=5).clearly)


def test_the_standard_error_is_that_of_a_finite_population() -> None:
    """Means over 2 of 5 passages, drawn without putting back, differ from those over all by ``sd sqrt(1/2 - 1/5)``."""
    draw = np.random.default_rng(0)
    everyone = draw.normal(size=5)
    spread = everyone.std(ddof=1)
    pairs = [everyone[[first, second]].mean() for first in range(5) for second in range(first)]
    error = np.sqrt(np.mean((np.array(pairs) - everyone.mean()) ** 2))
    assert error == pytest.approx(spread * np.sqrt(1 / 2 - 1 / 5))
    for above, pruned in ((2.9, False), (3.1, True)):  # of a difference whose spread over two passages is 1
        losses = np.array([[0.0, 0.0], [above * np.sqrt(0.3) - np.sqrt(0.5), above * np.sqrt(0.3) + np.sqrt(0.5)]])
        assert standing(losses, keep=1, passages=5).clearly == (False, pruned)


def test_what_a_passage_costs_everyone_makes_no_difference() -> None:
    losses = np.random.default_rng(0).normal(size=(30, 2))
    one, other = (standing(losses + cost, keep=10, passages=5) for cost in (0.0, np.array([5.0, -40.0])))
    assert one.clearly == other.clearly
    assert any(one.clearly)


def test_pruning_scores_two_passages_first_and_the_publication_all_at_once() -> None:
    assert list(rungs(5, pruning=True)) == [range(2), range(2, 5)]
    assert list(rungs(5, pruning=False)) == [range(5)]
    for few in (1, 2):
        assert list(rungs(few, pruning=True)) == [range(few)]
