"""When two answers count as equal: the rule, and how wide it is.

In: two answers to one question. Out: differences of log-probabilities (natural logarithm), and a judgement.

Two correct servers of one model do not agree to the last bit: the shapes of a batch decide in which order sums are
taken, and in bfloat16 that moves a log-probability by tenths. So answers are compared position by position while their
tokens agree. Where the tokens part, the two candidates must be nearly equal on both sides (a near tie, which rounding
decides), and nothing after it is compared: the contexts differ from there on.

How wide is measured, not assumed: ``noise`` asks the same requests alone and beside others of the *same* tier, where no
rope can be mixed up. Three figures are judged, each against its own in the noise: the largest difference (finds one
wrong position), the mean of one answer (finds one wrong answer), and the mean of a whole check, which fluctuates least
and so finds a shift of all answers that single values hide.

No tolerance is below a floor, because a small sample of the noise may by luck show none. In full precision the floor is
a hundred times the rounding of the engine. In half precision logits are whole steps of their last bit, a step shows in
the answers, and one step more or less is rounding: the floor is a few steps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from longrope_vllm.verification.answers import Step

NOISE_FACTOR = 3.0
"""Tolerance of a single value, and of the mean of one answer, in terms of the largest one in the noise."""
POOLED_FACTOR = 2.0
"""Tolerance of the mean of a whole check in terms of that of the noise."""
LARGEST_FLOOR, MEAN_FLOOR = 1e-3, 3e-4
LARGEST_STEPS, ANSWER_STEPS, CHECK_STEPS = 4.0, 1.0, 0.5
"""Floors in half precision, in steps of the logits."""
FINEST_STEP = 2.0**-10
"""float16 at a logit of 1; what is finer counts as full precision."""
_ROUNDING = 1e-5
"""Of a difference of two log-probabilities that were computed in float32 from logits on a grid."""
ANSWER_POSITIONS, CHECK_POSITIONS = 4, 16
"""The mean of fewer positions, in one answer and in a check, is as wild as a single value and is not judged."""
NOISE_LIMIT = 2.0
"""More is no rounding: probabilities of the same token seven times apart. The tolerance never grows beyond it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two answers to one question, side by side."""

    differences: tuple[float, ...]
    """Of every log-probability that one side lists, over the positions compared."""
    positions: int
    tie_gap: float | None = None
    """Where the tokens part: how far apart the two candidates are, on the side where they are further apart."""

    @property
    def largest(self) -> float:
        """Largest difference; infinite when nothing could be compared."""
        return max(self.differences, default=inf)

    @property
    def mean(self) -> float:
        """Mean difference, or 0 where there are too few positions to judge it."""
        return pooled_mean([self], at_least=ANSWER_POSITIONS)


def compare(found: Sequence[Step], expected: Sequence[Step]) -> Comparison:
    """``found`` and ``expected`` up to the end of the shorter one, or to the position where their tokens part."""
    differences: list[float] = []
    positions = 0
    for ours, theirs in zip(found, expected, strict=False):
        positions += 1
        differences += _differences(ours, theirs)
        if ours.token != theirs.token:
            gap = max(_gap(ours, theirs.token), _gap(theirs, ours.token))
            return Comparison(differences=tuple(differences), positions=positions, tie_gap=gap)
    return Comparison(differences=tuple(differences), positions=positions)


def pooled_mean(comparisons: Sequence[Comparison], *, at_least: int) -> float:
    """Mean difference over all of ``comparisons``, or 0 where they have fewer positions than ``at_least``."""
    if sum(each.positions for each in comparisons) < at_least:
        return 0.0
    values = [difference for each in comparisons for difference in each.differences]
    return sum(values) / len(values)


def logit_step(steps: Sequence[Step]) -> float:
    """The step of the logits behind ``steps``, a power of two, or 0 in full precision.

    Differences of log-probabilities at one position are differences of logits. Their grid is finer for small logits,
    so that of the middle position stands for all.
    """
    found = sorted(_step_of_position(step) for step in steps)
    return found[len(found) // 2] if found else 0.0


def _step_of_position(step: Step) -> float:
    values = sorted(step.top.values())
    gaps = [value - values[0] for value in values[1:]]
    size = 1.0
    while gaps and size >= FINEST_STEP:
        if all(abs(gap - round(gap / size) * size) <= _ROUNDING for gap in gaps):
            return size
        size /= 2
    return 0.0


def _differences(ours: Step, theirs: Step) -> Iterable[float]:
    """A token that only one side lists is below everything on the other: its difference is at least that much."""
    lowest_ours, lowest_theirs = min(ours.top.values()), min(theirs.top.values())
    for token in sorted(ours.top.keys() | theirs.top.keys()):
        if token in ours.top and token in theirs.top:
            yield abs(ours.top[token] - theirs.top[token])
        elif token in ours.top:
            yield max(0.0, ours.top[token] - lowest_theirs)
        else:
            yield max(0.0, theirs.top[token] - lowest_ours)


def _gap(step: Step, other: int) -> float:
    """How far ``other`` is from the token chosen at ``step``; infinite when it is not among the most likely ones."""
    return abs(step.top[step.token] - step.top[other]) if other in step.top else inf


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far equal answers may be apart, in log-probability."""

    largest: float
    answer_mean: float
    check_mean: float

    @classmethod
    def from_noise(cls, groups: Sequence[Sequence[Comparison]], *, step: float) -> "Tolerance":
        """The tolerance for a server whose equal requests differ as in ``groups``, one for each tier.

        ``step`` is that of its logits, 0 in full precision.

        There, too, tokens may part, and by how much belongs to the noise.
        """
        noise = [each for group in groups for each in group]
        means = [each.mean for each in noise]
        pooled = [pooled_mean(group, at_least=CHECK_POSITIONS) for group in groups]
        return cls(
            largest=max(LARGEST_FLOOR, LARGEST_STEPS * step, NOISE_FACTOR * min(largest_noise(noise), NOISE_LIMIT)),
            answer_mean=max(MEAN_FLOOR, ANSWER_STEPS * step, NOISE_FACTOR * min(max(means, default=0.0), NOISE_LIMIT)),
            check_mean=max(MEAN_FLOOR, CHECK_STEPS * step, POOLED_FACTOR * min(max(pooled, default=0.0), NOISE_LIMIT)),
        )

    def accepts(self, comparison: Comparison) -> bool:
        """True when two answers are equal by this tolerance."""
        return (
            comparison.largest <= self.largest
            and comparison.mean <= self.answer_mean
            and (comparison.tie_gap or 0.0) <= self.largest
        )

    def ratio(self, comparisons: Sequence[Comparison]) -> float:
        """How many tolerances the log-probabilities of a check are apart; equal ones at most 1."""
        single = [max(each.largest / self.largest, each.mean / self.answer_mean) for each in comparisons]
        return max([pooled_mean(comparisons, at_least=CHECK_POSITIONS) / self.check_mean, *single])


def largest_noise(noise: Sequence[Comparison]) -> float:
    """Largest difference or gap between parting tokens."""
    return max((max(each.largest, each.tie_gap or 0.0) for each in noise), default=0.0)
