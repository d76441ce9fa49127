"""Oracles: published intervals, scipy, numbers worked out by hand, coverage in simulations."""

import math
import random

import pytest
from scipy import stats

from longrope_vllm.evaluation.report.confidence import (
    DocumentLoss,
    Estimate,
    mean,
    perplexity,
    perplexity_ratio,
    proportion,
    score,
    score_difference,
    score_ratio,
    task_average,
)

LOSSES = (2.1, 2.5, 2.2, 2.9, 2.4)


def documents(losses: tuple[float, ...], group: str = "prose") -> list[DocumentLoss]:
    """Documents of the same length."""
    return [DocumentLoss(loss=loss, tokens=1000, group=group) for loss in losses]


def ends(estimate: Estimate | None) -> tuple[float, float]:
    """The interval, which is there."""
    assert estimate is not None
    assert estimate.interval is not None
    return estimate.interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_newcombe_published(successes: int, trials: int, low: float, high: float) -> None:
    # Statistics in Medicine 17 (1998) 857-872, method 3.
    assert ends(proportion(successes, trials)) == pytest.approx((low, high), abs=5e-5)


def test_wilson_intervals_are_those_of_scipy() -> None:
    for successes in range(13):
        expected = stats.binomtest(successes, 12).proportion_ci(method="wilson")
        assert ends(proportion(successes, 12)) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("both", "own", "other", "neither", "low", "high"),
    [(36, 12, 2, 0, 0.0569, 0.3404), (20, 12, 2, 16, 0.0562, 0.3292)],
)
def test_paired_differences_of_0_and_1_are_those_newcombe_published(
    both: int, own: int, other: int, neither: int, low: float, high: float
) -> None:
    # Statistics in Medicine 17 (1998) 2635-2650, method 10.
    scores = [1.0] * (both + own) + [0.0] * (other + neither)
    baseline = [1.0] * both + [0.0] * own + [1.0] * other + [0.0] * neither
    found = score_difference(scores, baseline)
    assert found.value == pytest.approx(0.2)
    assert ends(found) == pytest.approx((low, high), abs=5e-5)


def test_equal_right_answers_still_leave_a_difference_possible() -> None:
    low, high = ends(score_difference([1.0] * 20, [1.0] * 20))
    assert low == pytest.approx(-0.1611, abs=5e-5)
    assert high == pytest.approx(0.1611, abs=5e-5)


def test_the_mean_has_students_interval() -> None:
    expected = stats.t.interval(0.95, 4, loc=2.42, scale=stats.sem(LOSSES))
    assert ends(mean(LOSSES)) == pytest.approx(expected)


def test_shares_have_students_interval_cut_to_what_is_possible() -> None:
    assert score([0.5, 1.0, 0.5, 1.0, 0.0]).interval == (
        pytest.approx(stats.t.interval(0.95, 4, loc=0.6, scale=stats.sem([0.5, 1.0, 0.5, 1.0, 0.0]))[0]),
        1.0,
    )


def test_scores_of_0_and_1_have_wilsons_interval() -> None:
    assert score([1.0, 0.0, 1.0, 1.0]) == proportion(3, 4)


def test_shares_that_are_all_equal_have_no_interval() -> None:
    assert score([0.5, 0.5, 0.5]) == Estimate(value=0.5, interval=None, samples=3)


def test_the_perplexity_of_equal_documents_has_students_interval_of_the_losses() -> None:
    found = perplexity(documents(LOSSES))
    low, high = stats.t.interval(0.95, 4, loc=2.42, scale=stats.sem(LOSSES))
    assert found.value == pytest.approx(math.exp(2.42))
    assert ends(found) == pytest.approx((math.exp(low), math.exp(high)))


def test_perplexity_weighs_tokens_alike() -> None:
    found = perplexity(
        [DocumentLoss(loss=2.0, tokens=100, group="prose"), DocumentLoss(loss=3.0, tokens=300, group="prose")]
    )
    # Influences are -0.75 * 0.25 and 0.25 * 0.75; the variance is 2 / 1 times the sum of their squares.
    half = stats.t.ppf(0.975, 1) * math.sqrt(2 * 2 * 0.1875**2)
    assert found.value == pytest.approx(math.exp(2.75))
    assert ends(found) == pytest.approx((math.exp(2.75 - half), math.exp(2.75 + half)))


def test_kinds_of_text_are_strata() -> None:
    found = perplexity([*documents((1.0, 1.2)), *documents((3.0, 3.4), "source")])
    # Half of the tokens each: a quarter of the variance of each mean; 4 documents less 2 kinds.
    half = stats.t.ppf(0.975, 2) * math.sqrt(0.25 * 0.02 / 2 + 0.25 * 0.08 / 2)
    assert ends(found) == pytest.approx((math.exp(2.15 - half), math.exp(2.15 + half)))


def test_a_kind_with_one_document_makes_all_documents_one_stratum() -> None:
    mixed = perplexity([*documents(LOSSES[:4]), *documents(LOSSES[4:], "source")])
    assert mixed == perplexity(documents(LOSSES))


def test_one_document_has_no_interval() -> None:
    assert perplexity(documents((2.0,))) == Estimate(value=math.exp(2.0), interval=None, samples=1)


def test_a_loss_beyond_floating_point_is_an_infinite_perplexity() -> None:
    assert perplexity(documents((1000.0,))).value == math.inf


def test_how_hard_a_text_is_cancels_out_of_a_perplexity_ratio() -> None:
    gains = (0.10, 0.12, 0.08, 0.11, 0.09)
    found = perplexity_ratio(
        documents(tuple(loss + gain for loss, gain in zip(LOSSES, gains, strict=True))), documents(LOSSES)
    )
    low, high = stats.t.interval(0.95, 4, loc=0.1, scale=stats.sem(gains))
    assert found.value == pytest.approx(math.exp(0.1))
    assert ends(found) == pytest.approx((math.exp(low), math.exp(high)))


def test_the_ends_of_a_score_ratio_are_where_students_test_gives_5_percent() -> None:
    baseline = [1.0, 0.5, 1.0, 0.75, 1.0, 0.25, 1.0, 0.5]
    scores = [0.75, 0.5, 1.0, 0.5, 1.0, 0.25, 0.5, 0.75]
    found = score_ratio(scores, baseline)
    assert found is not None
    assert found.value == pytest.approx(5.25 / 6.0)
    for ratio in ends(found):
        rest = [own - ratio * base for own, base in zip(scores, baseline, strict=True)]
        assert stats.ttest_1samp(rest, 0).pvalue == pytest.approx(0.05)


def test_a_score_ratio_says_what_it_cannot_say() -> None:
    assert score_ratio([1.0, 0.0], [0.0, 0.0]) is None
    assert score_ratio([1.0, 0.0], [1.0, 0.0]) == Estimate(value=1.0, interval=None, samples=2)
    noisy = score_ratio([1.0, 1.0, 0.0], [1.0, 0.0, 0.0])
    assert noisy == Estimate(value=2.0, interval=None, samples=3)


def test_a_task_average_weighs_tasks_alike() -> None:
    found = task_average([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0]])
    assert found.value == pytest.approx(0.625)
    assert found.samples == 6
    assert ends(found) == ends(proportion(2.5, 4))


def test_perplexity_intervals_hold_the_true_value_about_95_times_in_100() -> None:
    chance, hits, trials = random.Random(5), 0, 1500
    for _ in range(trials):
        sample = [
            DocumentLoss(loss=level + chance.gauss(0, 0.2), tokens=chance.choice((900, 1000, 1100)), group=group)
            for group, level in (("prose", 2.0), ("source", 2.0))
            for _ in range(4)
        ]
        low, high = ends(perplexity(sample))
        hits += low <= math.exp(2.0) <= high
    assert 0.93 <= hits / trials <= 0.97


def test_score_intervals_hold_the_true_value_about_95_times_in_100() -> None:
    chance, trials = random.Random(6), 1500
    hits = {"score": 0, "difference": 0, "ratio": 0, "average": 0}
    for _ in range(trials):
        base = [float(chance.random() < 0.7) for _ in range(40)]
        own = [value if chance.random() < 0.5 else float(chance.random() < 0.4) for value in base]
        truth = 0.5 * 0.7 + 0.5 * 0.4
        found = {
            "score": (score(own), truth),
            "difference": (score_difference(own, base), truth - 0.7),
            "ratio": (score_ratio(own, base), truth / 0.7),
            "average": (task_average([own[:20], own[20:]]), truth),
        }
        for name, (estimate, value) in found.items():
            low, high = ends(estimate)
            hits[name] += low <= value <= high
    assert {name: 0.93 <= count / trials <= 0.98 for name, count in hits.items()} == dict.fromkeys(hits, True), hits
