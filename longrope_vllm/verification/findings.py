"""What a check found, and how it comes from the comparisons it made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from longrope_vllm.verification.equality import CHECK_POSITIONS, Comparison, Tolerance, pooled_mean

Status = Literal["passed", "failed", "skipped", "inconclusive", "information"]
"""``inconclusive``: not a fault of the server, but this check proves nothing; ``information``: never judged."""

_NAMED = 3
"""Problems named in one reason; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A comparison and what it is of, as words for a message."""

    what: str
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check."""

    status: Status
    compared: str
    """What was held against what."""
    reason: str | None = None
    """Why it failed, was skipped or says nothing; what was found, for information."""
    largest_difference: float | None = None
    """Of a log-probability; None where none was compared."""
    mean_difference: float | None = None
    """Over all of them."""
    tolerance_used: float | None = None
    """Share of the tolerance that the differences take up: up to 1 is equal."""
    answers: int = 0
    """Pairs of answers compared."""
    positions: int = 0
    """Generated tokens compared."""
    parted: int = 0
    """Pairs whose tokens part, compared up to there; in a check that passed each time at a near tie."""


def skipped(compared: str, reason: str) -> Finding:
    """A check that was not made."""
    return Finding(status="skipped", compared=compared, reason=reason)


def judged(compared: str, pairs: Sequence[Pair], tolerance: Tolerance, problems: Sequence[str] = ()) -> Finding:
    """Passed when all pairs are equal by ``tolerance``, each and together, and there is no other problem."""
    wrong = [_difference(pair, tolerance) for pair in pairs if not tolerance.accepts(pair.comparison)]
    together = pooled_mean([pair.comparison for pair in pairs], at_least=CHECK_POSITIONS)
    if together > tolerance.check_mean:
        wrong.append(
            f"log-probabilities of all answers differ by {together:.2g} on average (tolerance "
            f"{tolerance.check_mean:.2g})"
        )
    found = [*problems, *wrong]
    return measured("failed" if found else "passed", compared, pairs, tolerance, reason=_enumerated(found))


def measured(
    status: Status, compared: str, pairs: Sequence[Pair], tolerance: Tolerance, *, reason: str | None
) -> Finding:
    """A finding with the figures of ``pairs``, of which there is at least one."""
    comparisons = [pair.comparison for pair in pairs]
    return Finding(
        status=status,
        compared=compared,
        reason=reason,
        largest_difference=max(each.largest for each in comparisons),
        mean_difference=pooled_mean(comparisons, at_least=1),
        tolerance_used=tolerance.ratio(comparisons),
        answers=len(comparisons),
        positions=sum(each.positions for each in comparisons),
        parted=sum(each.tie_gap is not None for each in comparisons),
    )


def _difference(pair: Pair, tolerance: Tolerance) -> str:
    found = pair.comparison
    parted = ""
    if found.tie_gap is not None:
        parted = f", tokens part at position {found.positions} with candidates {found.tie_gap:.2g} apart"
    return (
        f"{pair.what}: log-probabilities differ by up to {found.largest:.2g} (tolerance {tolerance.largest:.2g}), "
        f"{found.mean:.2g} on average (tolerance {tolerance.answer_mean:.2g}){parted}"
    )


def _enumerated(problems: Sequence[str]) -> str | None:
    if not problems:
        return None
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return "; ".join(problems[:_NAMED]) + more
