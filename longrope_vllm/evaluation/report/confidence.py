"""Estimates with 95 % confidence intervals: perplexity, scores, and two methods compared on the same samples.

In: losses in nats with their tokens, or scores. Out: an ``Estimate``, whose interval is None where the samples do not
support one: a single document, or scores of which no two differ. Quantiles come from scipy.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from longrope_vllm.extras import require

_TAIL = 0.975
"""Upper quantile of a two-sided interval of 95 %."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure, how sure it is, and from how many samples."""

    value: float
    interval: tuple[float, float] | None
    """Lower and upper end of 95 % confidence; None where the samples do not support one."""
    samples: int


@dataclass(frozen=True, kw_only=True)
class DocumentLoss:
    """The loss of one document."""

    loss: float
    """Mean over its tokens, in nats."""
    tokens: float
    group: str
    """Kind of text."""

    def __post_init__(self) -> None:
        assert self.tokens > 0


def perplexity(documents: Sequence[DocumentLoss]) -> Estimate:
    """``exp`` of the mean loss of all tokens; the interval is symmetric in log space, with documents as clusters.

    Tokens of a document are not independent, so the document is the unit: the ratio estimator of Cochran (Sampling
    Techniques, 1977, section 6.3) with a linearised variance, Student's t with documents minus kinds of text as its
    degrees of freedom. Kinds are strata, for they were chosen and not drawn. Where a kind has one document, all
    documents are one stratum, which can only widen the interval.
    """
    mean, influences = _mean_loss(documents)
    return _in_linear_space(mean, influences, [document.group for document in documents])


def perplexity_ratio(documents: Sequence[DocumentLoss], baseline: Sequence[DocumentLoss]) -> Estimate:
    """Perplexity of ``documents`` over that of ``baseline``, the same documents in the same order under another method.

    As ``perplexity``, from the difference of each document's two influences: how hard a text is cancels out.
    """
    mean, influences = _mean_loss(documents)
    other_mean, other_influences = _mean_loss(baseline)
    differences = [own - other for own, other in zip(influences, other_influences, strict=True)]
    return _in_linear_space(mean - other_mean, differences, [document.group for document in documents])


def mean(values: Sequence[float]) -> Estimate:
    """The mean with Student's t interval (Biometrika 6, 1908)."""
    count = len(values)
    middle = math.fsum(values) / count
    if len(set(values)) < 2:
        return Estimate(value=middle, interval=None, samples=count)
    variance = math.fsum((value - middle) ** 2 for value in values) / (count - 1)
    half = _student(count - 1) * math.sqrt(variance / count)
    return Estimate(value=middle, interval=(middle - half, middle + half), samples=count)


def score(scores: Sequence[float]) -> Estimate:
    """The mean of ``scores``: Wilson's interval for 0/1, Student's t cut to 0 and 1 for shares."""
    if set(scores) <= {0.0, 1.0}:
        return proportion(sum(scores), len(scores))
    found = mean(scores)
    if found.interval is None or min(scores) < 0 or max(scores) > 1:
        return found
    low, high = found.interval
    return Estimate(value=found.value, interval=(max(0.0, low), min(1.0, high)), samples=found.samples)


def proportion(successes: float, trials: int) -> Estimate:
    """``successes / trials`` with the score interval of Wilson (JASA 22, 1927): sensible at 0 and at 1 as well."""
    share, squared = successes / trials, _normal() ** 2
    center = (share + squared / (2 * trials)) / (1 + squared / trials)
    half = math.sqrt(squared * (share * (1 - share) / trials + squared / (4 * trials**2))) / (1 + squared / trials)
    interval = (max(0.0, min(share, center - half)), min(1.0, max(share, center + half)))
    return Estimate(value=share, interval=interval, samples=trials)


def task_average(tasks: Sequence[Sequence[float]]) -> Estimate:
    """The mean of the tasks' mean scores, from 0 to 1, with Wilson's interval for as many trials.

    It holds at least 95 %: a score between 0 and 1 varies at most as a 0/1 score of the same mean, the average of
    p (1 - p) over tasks is at most that of the average p, and the smallest task counts for each.
    """
    average = math.fsum(math.fsum(scores) / len(scores) for scores in tasks) / len(tasks)
    trials = len(tasks) * min(map(len, tasks))
    interval = proportion(average * trials, trials).interval
    return Estimate(value=average, interval=interval, samples=sum(map(len, tasks)))


def score_difference(scores: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Mean of ``scores`` minus that of ``baseline``, the same samples in the same order.

    0/1 scores: method 10 of Newcombe (Statistics in Medicine 17, 1998, 2635-2650), Wilson's intervals of both, squared
    and added with their correlation; it has a width even when all answers agree. Others: Student's t on differences.
    """
    if not set(scores) | set(baseline) <= {0.0, 1.0}:
        return mean([own - other for own, other in zip(scores, baseline, strict=True)])
    count = len(scores)
    pairs = Counter(zip(scores, baseline, strict=True))
    agreement = _correlation(pairs[1, 1], pairs[1, 0], pairs[0, 1], pairs[0, 0])
    own, other = proportion(sum(scores), count), proportion(sum(baseline), count)
    assert own.interval is not None
    assert other.interval is not None
    below, above = own.value - own.interval[0], own.interval[1] - own.value
    other_below, other_above = other.value - other.interval[0], other.interval[1] - other.value
    difference = own.value - other.value
    low = difference - math.sqrt(below**2 - 2 * agreement * below * other_above + other_above**2)
    high = difference + math.sqrt(above**2 - 2 * agreement * above * other_below + other_below**2)
    return Estimate(value=difference, interval=(low, high), samples=count)


def score_ratio(scores: Sequence[float], baseline: Sequence[float]) -> Estimate | None:
    """Mean of ``scores`` over that of ``baseline``, the same samples in the same order; None for a baseline of 0.

    The interval is Fieller's (JRSS B 16, 1954): all ratios r for which the mean of ``scores - r * baseline`` is not
    told from 0 by Student's t. There is none where no sample differs, or where the baseline is not told from 0.
    """
    count = len(scores)
    own, other = math.fsum(scores) / count, math.fsum(baseline) / count
    if other == 0:
        return None
    ratio = own / other
    without = Estimate(value=ratio, interval=None, samples=count)
    if count < 2 or len({value - ratio * base for value, base in zip(scores, baseline, strict=True)}) < 2:
        return without
    factor = _student(count - 1) ** 2 / (count * (count - 1))
    own_square = factor * math.fsum((value - own) ** 2 for value in scores)
    other_square = factor * math.fsum((base - other) ** 2 for base in baseline)
    product = factor * math.fsum((value - own) * (base - other) for value, base in zip(scores, baseline, strict=True))
    # (own - r other)^2 <= own_square - 2 r product + r^2 other_square
    square, linear, constant = other**2 - other_square, own * other - product, own**2 - own_square
    discriminant = linear**2 - square * constant
    if square <= 0 or discriminant < 0:
        return without
    half = math.sqrt(discriminant)
    return Estimate(value=ratio, interval=((linear - half) / square, (linear + half) / square), samples=count)


def _mean_loss(documents: Sequence[DocumentLoss]) -> tuple[float, list[float]]:
    """Token-weighted mean, and how much each document moves it."""
    total = math.fsum(document.tokens for document in documents)
    average = math.fsum(document.loss * document.tokens for document in documents) / total
    return average, [(document.loss - average) * document.tokens / total for document in documents]


def _in_linear_space(log_value: float, influences: Sequence[float], groups: Sequence[str]) -> Estimate:
    value, count = _exp(log_value), len(influences)
    sizes = Counter(groups)
    strata = groups if min(sizes.values()) > 1 else [""] * count
    freedom = count - len(set(strata))
    if freedom == 0:
        return Estimate(value=value, interval=None, samples=count)
    variance = 0.0
    for stratum in sorted(set(strata)):
        own = [influence for influence, name in zip(influences, strata, strict=True) if name == stratum]
        middle = math.fsum(own) / len(own)
        variance += len(own) / (len(own) - 1) * math.fsum((influence - middle) ** 2 for influence in own)
    half = _student(freedom) * math.sqrt(variance)
    return Estimate(value=value, interval=(_exp(log_value - half), _exp(log_value + half)), samples=count)


def _correlation(both: int, own: int, other: int, neither: int) -> float:
    """Phi of a 2 x 2 table with Newcombe's continuity correction; 0 where a margin is empty."""
    margins = (both + own) * (other + neither) * (both + other) * (own + neither)
    if margins == 0:
        return 0.0
    product = both * neither - own * other
    corrected = max(product - (both + own + other + neither) / 2, 0) if product > 0 else product
    return corrected / math.sqrt(margins)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _student(freedom: int) -> float:
    return float(require("scipy.special", "eval").stdtrit(freedom, _TAIL))


def _normal() -> float:
    return float(require("scipy.special", "eval").ndtri(_TAIL))
