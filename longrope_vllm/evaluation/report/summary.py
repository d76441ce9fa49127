"""From records to tables: everything a results page states, before any of it is drawn or put in words.

In: the records of a run, finished or not, and how many it will have. Out: a ``Summary``; a task without records is
None or empty in it. Perplexities weight tokens alike, scores weight samples alike, averages weight tasks alike.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.report.comparison import (
    Verdict,
    document_loss,
    highest_score,
    lowest_perplexity,
)
from longrope_vllm.evaluation.report.confidence import (
    DocumentLoss,
    Estimate,
    perplexity,
    task_average,
)
from longrope_vllm.evaluation.report.grid import Grid, grid
from longrope_vllm.evaluation.report.short_scores import ShortScores, score_of, short_scores

_ANSWERED = ("passkey", "needle")
"""Tasks of which wrong answers are listed."""
_MOST_DEPTHS = 11
"""With more depths than this, a heat map has a row for each tenth."""


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """Mean loss along the documents of the longest length, under one method."""

    method: str
    losses: tuple[float, ...]
    """Of each run of tokens, in nats; all runs are equally long."""
    length: int
    """Tokens of a document."""
    documents: int


@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """Answers at one depth and length."""

    score: float
    """Sum over the samples."""
    samples: int


@dataclass(frozen=True, kw_only=True)
class NeedleMap:
    """Answers of one method by (length, depth); depths as labels, from the beginning of the text to its end."""

    method: str
    lengths: tuple[int, ...]
    depths: tuple[str, ...]
    cells: Mapping[tuple[int, str], HeatCell]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the records say."""

    methods: tuple[str, ...]
    """Of all tasks, in the order in which they were first measured."""
    samples: int
    planned: int
    perplexity: Grid | None
    last_perplexity: Grid | None
    last_tokens: int
    """Tokens at the end of a document that ``last_perplexity`` is of."""
    curves: tuple[LossCurve, ...]
    longppl: Grid | None
    """None as well where no document has a key token."""
    keyless: int
    """Records of LongPPL without a single key token, and so without a perplexity."""
    passkey: Grid | None
    needle: Grid | None
    needle_maps: tuple[NeedleMap, ...]
    ruler: Grid | None
    short: ShortScores | None
    verdicts: Mapping[str, Verdict]
    """By task, for those that get harder with length."""
    wrong_answers: Mapping[str, tuple[Record, ...]]
    """By task, for those with one answer a question."""


def summarize(records: Iterable[Record], *, planned: int) -> Summary:
    """Summary of ``records``, of which a finished run has ``planned``."""
    found = tuple(records)
    of = {task: _of_task(found, task) for task in ("ppl", "longppl", "passkey", "needle", "ruler", "short")}
    last = [record for record in of["ppl"] if record.values.get("last_tokens")]
    perplexities = {task: grid(of[task], _perplexity, _perplexity) for task in ("ppl", "longppl")}
    scores = {task: grid(of[task], score_of, score_of) for task in _ANSWERED}
    scores["ruler"] = grid(of["ruler"], score_of, _task_average)
    verdicts = {task: lowest_perplexity(of[task], table) for task, table in perplexities.items() if table}
    verdicts |= {task: highest_score(of[task], table) for task, table in scores.items() if table}
    return Summary(
        methods=tuple(dict.fromkeys(record.key.method for record in found)),
        samples=len(found),
        planned=planned,
        perplexity=perplexities["ppl"],
        last_perplexity=grid(last, _last_perplexity, _last_perplexity),
        last_tokens=int(max((record.values["last_tokens"] for record in last), default=0)),
        curves=loss_curves(of["ppl"]),
        longppl=perplexities["longppl"],
        keyless=sum(record.key.task == "longppl" for record in found) - len(of["longppl"]),
        passkey=scores["passkey"],
        needle=scores["needle"],
        needle_maps=needle_maps(of["needle"]),
        ruler=scores["ruler"],
        short=short_scores(of["short"]),
        verdicts=verdicts,
        wrong_answers={task: wrong for task in _ANSWERED if (wrong := _wrong(of[task]))},
    )


def loss_curves(records: Sequence[Record]) -> tuple[LossCurve, ...]:
    """Loss by position of the longest length, weighting documents by their tokens.

    Only documents that every method has, so that all curves are of the same text.
    """
    curved = [record for record in records if record.curve]
    length = max((record.key.length for record in curved), default=0)
    by_method: dict[str, dict[tuple[str, str], Record]] = {}
    for record in curved:
        if record.key.length == length:
            by_method.setdefault(record.key.method, {})[record.key.group, record.key.sample] = record
    every = list(by_method.values())
    shared = [document for document in (every[0] if every else {}) if all(document in own for own in every)]
    if not shared:
        return ()
    curves = []
    for method, own in by_method.items():
        documents = [own[document] for document in shared]
        weights = [document.values["tokens"] for document in documents]
        runs = zip(*(document.curve for document in documents), strict=False)  # a shorter document ends them all
        losses = tuple(
            math.fsum(loss * weight for loss, weight in zip(run, weights, strict=True)) / math.fsum(weights)
            for run in runs
        )
        curves.append(LossCurve(method=method, losses=losses, length=length, documents=len(documents)))
    return tuple(curves)


def needle_maps(records: Sequence[Record]) -> tuple[NeedleMap, ...]:
    """A map for each method, all over the same lengths and depths."""
    labels = _depth_labels({record.values["depth"] for record in records if "depth" in record.values})
    lengths = tuple(sorted({record.key.length for record in records}))
    cells: dict[str, dict[tuple[int, str], HeatCell]] = {}
    for record in records:
        own = cells.setdefault(record.key.method, {})
        if "depth" not in record.values:
            continue
        place = (record.key.length, labels[record.values["depth"]])
        before = own.get(place, HeatCell(score=0.0, samples=0))
        own[place] = HeatCell(score=before.score + record.values["score"], samples=before.samples + 1)
    depths = tuple(dict.fromkeys(labels[depth] for depth in sorted(labels)))
    return tuple(
        NeedleMap(method=method, lengths=lengths, depths=depths, cells=own) for method, own in cells.items() if depths
    )


def _of_task(records: Sequence[Record], task: str) -> tuple[Record, ...]:
    """Records of ``task``; a document without a single key token has no perplexity."""
    return tuple(
        record
        for record in records
        if record.key.task == task and (task not in ("ppl", "longppl") or record.values["tokens"] > 0)
    )


def _depth_labels(depths: set[float]) -> dict[float, str]:
    if len(depths) <= _MOST_DEPTHS:
        return {depth: f"{100 * depth:.0f} %" for depth in depths}
    tenths = {depth: min(9, int(10 * depth)) for depth in depths}
    return {depth: f"{10 * tenth} to {10 * tenth + 10} %" for depth, tenth in tenths.items()}


def _wrong(records: Sequence[Record]) -> tuple[Record, ...]:
    return tuple(record for record in records if record.values["score"] < 1)


def _perplexity(records: Sequence[Record]) -> Estimate:
    return perplexity([document_loss(record) for record in records])


def _last_perplexity(records: Sequence[Record]) -> Estimate:
    return perplexity(
        [DocumentLoss(loss=r.values["last_loss"], tokens=r.values["last_tokens"], group=r.key.group) for r in records]
    )


def _task_average(records: Sequence[Record]) -> Estimate:
    tasks: dict[str, list[float]] = {}
    for record in records:
        tasks.setdefault(record.key.group, []).append(record.values["score"])
    return task_average(list(tasks.values()))
