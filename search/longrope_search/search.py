"""One search from request to factors: check, plan, measure what the study does not know yet, choose.

Every worker runs the whole of it, and all come to the same result: what one measures the others read from the study.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from optuna.storages import BaseStorage

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Batch
from longrope_search.methods.seeds import from_shorter, from_tuned, seeds
from longrope_search.model.scorer import Measured
from longrope_search.plan import Plan, identity
from longrope_search.result import Found, Row
from longrope_search.scoring.bench import Bench, Told
from longrope_search.scoring.study import Study, UnmeasuredError
from longrope_search.space import Point
from longrope_search.stage import Stage, run_engine
from longrope_vllm.lengths import format_length


class Watched(Told):
    """Who is told the course of a search as well; this one says nothing."""

    def stage(self, stage: Stage, planned: int) -> None:
        """The search of one length begins, of so many token-forwards at most."""


def search(plan: Plan, storage: BaseStorage, *, worker: str, told: Watched | None = None) -> list[Found]:
    """Find the tier of each length, the shortest first; each length begins with what the one before it found.

    Raises what measuring raises; what was measured until then is kept in the study.
    """
    join = partial(Study.join, storage, request=plan.request.shared(), worker=worker)
    return list(_lengths(plan, join, plan.scorer().measure, told or Watched()))


def so_far(plan: Plan, storage: BaseStorage) -> list[Found]:
    """What a search has found until now, without measuring anything; the last one may be unfinished."""
    return list(_lengths(plan, partial(Study.read, storage), None, Watched()))


def _lengths(
    plan: Plan, join: Callable[..., Study], measure: Callable[..., Measured] | None, told: Watched
) -> Iterator[Found]:
    points: list[Point] = []
    for place, stage in enumerate(plan.stages):
        begin = seeds(stage.space, stage.geometry)
        if plan.request.kind == "short" and plan.footing.tuned is not None:
            begin.append(from_tuned(plan.footing.tuned.tiers[-1], stage.space))
        if points and plan.request.space == "longrope":
            begin.append(from_shorter(points[-1], stage.space, plan.stages[place - 1].space))
        told.stage(stage, stage.planned(len(begin)))
        name = f"{plan.request.title} {format_length(stage.space.length)}"
        settings = identity(plan, stage)
        curves = None if measure is None else partial(measure, curve=True)
        try:
            bench = Bench(
                join(name=name, settings=settings), stage.passages, measure, pruning=plan.request.pruning, told=told
            )
        except UnmeasuredError:
            return
        try:
            points.append(run_engine(stage.engine(begin), bench))
            again = Bench(
                join(name=f"{name} held-out", settings=settings), stage.held_out, curves, pruning=False, told=told
            )
            finalists, baselines = stage.best(bench), stage.baselines()
            again.scores(Batch(candidates=[*finalists, *baselines.values()], keep=1, title="held-out documents"))
        except UnmeasuredError:
            yield _found(stage, bench, [], [])
            return
        yield _found(
            stage,
            bench,
            [_row("searched", candidate, again) for candidate in finalists],
            [_row(label, candidate, again) for label, candidate in baselines.items()],
        )


def _found(stage: Stage, bench: Bench, finalists: Sequence[Row], baselines: Sequence[Row]) -> Found:
    return Found(
        length=stage.space.length,
        finalists=finalists,
        baselines=baselines,
        search_losses=dict(bench.complete),
        history=bench.history,
        evaluations=bench.evaluations,
        token_forwards=bench.token_forwards,
        passages=stage.passages,
        held_out=stage.held_out,
    )


def _row(label: str, candidate: Candidate, again: Bench) -> Row:
    measured = again.measured(candidate)
    whole = all(found.curve for found in measured)
    return Row(
        label=label,
        candidate=candidate,
        losses=tuple(found.loss for found in measured),
        last=tuple(found.last for found in measured) if whole else (),
        curves=tuple(found.curve for found in measured) if whole else (),
    )
