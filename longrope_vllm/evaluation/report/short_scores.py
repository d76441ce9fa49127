"""Scores of short benchmarks under each method, and the share of the first method's score that is left.

In: records of the task ``short``. Out: two grids. The methods are ways to serve the same model, such as the checkpoint
alone, tiers for each request, and the longest tier for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.report.comparison import shared_samples
from longrope_vllm.evaluation.report.confidence import Estimate, score, score_ratio
from longrope_vllm.evaluation.report.grid import Grid, Place, grid


@dataclass(frozen=True, kw_only=True)
class ShortScores:
    """Benchmarks of short questions: what an extension costs where none is needed."""

    scores: Grid
    """Groups are benchmarks, or benchmarks with a metric each; the length is 0."""
    retention: Grid
    """Score over the score of ``baseline`` on the same questions, for every other method."""
    baseline: str


def short_scores(records: Sequence[Record]) -> ShortScores | None:
    """Scores, and what is left of the first method's; None without records."""
    by_metric = _by_metric(records)
    scores = grid(by_metric, score_of, None)
    if scores is None:
        return None
    baseline = scores.methods[0]
    retained: dict[Place, Estimate] = {}
    for place in scores.cells:
        if place.method == baseline:
            continue
        here = [record for record in by_metric if record.key[2:4] == place[1:]]
        own = [record for record in here if record.key.method == place.method]
        ours, base = shared_samples(own, [record for record in here if record.key.method == baseline])
        ratio = score_ratio([r.values["score"] for r in ours], [r.values["score"] for r in base]) if ours else None
        if ratio is not None:
            retained[place] = ratio
    retention = replace(scores, methods=scores.methods[1:], cells=retained)
    return ShortScores(scores=scores, retention=retention, baseline=baseline)


def score_of(records: Sequence[Record]) -> Estimate:
    """The mean ``score`` of ``records``."""
    return score([record.values["score"] for record in records])


def _by_metric(records: Sequence[Record]) -> tuple[Record, ...]:
    """A record for each metric, with the benchmark as its group, and the metric where a benchmark has several."""
    metrics: dict[str, dict[str, None]] = {}
    for record in records:
        metrics.setdefault(record.key.group, {}).update(dict.fromkeys(record.values))
    return tuple(
        replace(record, key=record.key._replace(group=group), values={"score": value})
        for record in records
        for metric, value in record.values.items()
        for group in [record.key.group + (f" {metric}" if len(metrics[record.key.group]) > 1 else "")]
    )
