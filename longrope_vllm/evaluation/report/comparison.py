"""Which method did best at the longest length, and which others its paired interval tells from it.

In: the records of one task. Out: a ``Verdict``. Methods are compared on the samples that both have, at one length, so
that neither an interrupted run nor a hard sample favours one of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.report.confidence import (
    DocumentLoss,
    Estimate,
    perplexity_ratio,
    score_difference,
)
from longrope_vllm.evaluation.report.grid import Grid

Pairing = Callable[[Sequence[Record], Sequence[Record]], Estimate]
"""Compares the same samples of two methods: of the first against the second."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Another method against the best one."""

    method: str
    estimate: Estimate
    """Ratio of perplexities, or difference of scores, to the best one, on the samples of both."""
    apart: bool
    """Whether the interval excludes that both are as good."""
    ahead: bool
    """Whether it does better than the best one on the samples of both: it lacks others, so it is not the best yet."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The best method at one length, and the others in the order in which they were first measured."""

    measure: Literal["perplexity", "score"]
    length: int
    best: str
    value: Estimate
    others: tuple[Comparison, ...]


def document_loss(record: Record) -> DocumentLoss:
    """The loss of the document of a ``ppl`` or ``longppl`` record."""
    return DocumentLoss(loss=record.values["loss"], tokens=record.values["tokens"], group=record.key.group)


def lowest_perplexity(records: Iterable[Record], table: Grid) -> Verdict:
    """The method with the lowest perplexity at the longest length, of those with all samples there.

    ``table`` is the grid of ``records``.
    """
    length = table.lengths[-1]
    candidates = _complete(table, length)
    best = min(candidates, key=lambda method: candidates[method].value)
    others = _compare(records, length, best, table.methods, _ratio, equal=1.0, better=-1)
    return Verdict(measure="perplexity", length=length, best=best, value=candidates[best], others=others)


def highest_score(records: Iterable[Record], table: Grid) -> Verdict:
    """The method with the highest score at the longest length, of those with all samples there.

    ``table`` is the grid of ``records``.
    """
    length = table.lengths[-1]
    candidates = _complete(table, length)
    best = max(candidates, key=lambda method: candidates[method].value)
    others = _compare(records, length, best, table.methods, _difference, equal=0.0, better=1)
    return Verdict(measure="score", length=length, best=best, value=candidates[best], others=others)


def shared_samples(
    records: Sequence[Record], baseline: Sequence[Record]
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """The records of both lists that have the same length, group and sample, in the same order."""
    own = {record.key[2:]: record for record in records}
    other = {record.key[2:]: record for record in baseline}
    shared = [sample for sample in own if sample in other]
    return tuple(own[sample] for sample in shared), tuple(other[sample] for sample in shared)


def _complete(table: Grid, length: int) -> dict[str, Estimate]:
    """Cells at ``length`` that have as many samples as any other."""
    cells = {method: table.at(method, length) for method in table.methods}
    most = table.most_samples(length)
    return {method: cell for method, cell in cells.items() if cell is not None and cell.samples == most}


def _compare(
    records: Iterable[Record],
    length: int,
    best: str,
    methods: Sequence[str],
    pairing: Pairing,
    *,
    equal: float,
    better: Literal[-1, 1],
) -> tuple[Comparison, ...]:
    """``equal`` is what ``pairing`` gives for methods that do alike, ``better`` the side of the better ones."""
    at_length = [record for record in records if record.key.length == length]
    ours = [record for record in at_length if record.key.method == best]
    comparisons = []
    for method in methods:
        theirs = [record for record in at_length if record.key.method == method]
        others, bests = shared_samples(theirs, ours)
        if method == best or not others:
            continue
        estimate = pairing(others, bests)
        apart = estimate.interval is not None and not estimate.interval[0] <= equal <= estimate.interval[1]
        ahead = better * (estimate.value - equal) > 0
        comparisons.append(Comparison(method=method, estimate=estimate, apart=apart, ahead=ahead))
    return tuple(comparisons)


def _ratio(records: Sequence[Record], baseline: Sequence[Record]) -> Estimate:
    return perplexity_ratio([document_loss(record) for record in records], [document_loss(r) for r in baseline])


def _difference(records: Sequence[Record], baseline: Sequence[Record]) -> Estimate:
    return score_difference([record.values["score"] for record in records], [r.values["score"] for r in baseline])
