"""One search from request to factors: check, plan, measure what the study does not know yet, choose.

Every worker runs the whole of it, and all come to the same result: what one measures the others read from the study.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from longrope_search.bench import Bench, Told
from longrope_search.candidate import Candidate
from longrope_search.engine import Batch
from longrope_search.footing import Footing, footing
from longrope_search.memory_plan import MemoryPlan
from longrope_search.passages import passages_of
from longrope_search.request import Request
from longrope_search.result import Found, Row, origin
from longrope_search.scorer import Measured, Scorer
from longrope_search.seeds import from_shorter, from_tuned, seeds
from longrope_search.space import Point, Space
from longrope_search.stage import Stage, run_engine, settings_of, start_token_choices
from longrope_search.study import Study, UnmeasuredError
from longrope_vllm.errors import SearchError
from longrope_vllm.evaluation.documents import Document, cut_documents
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.loading import device_named, dtype_named, tokenizer_at
from longrope_vllm.evaluation.settings import checkpoint_identity
from longrope_vllm.factors import Factors
from longrope_vllm.geometry import read_config, text_config
from longrope_vllm.lengths import format_length
from longrope_vllm.rope import longrope_attention_factor, yarn_attention_factor


class Watched(Told):
    """Who is told the course of a search as well; this one says nothing."""

    def stage(self, stage: Stage, planned: int) -> None:
        """The search of one length begins, of so many token-forwards at most."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search that was checked and can begin."""

    request: Request
    footing: Footing
    stages: Sequence[Stage]
    memory: MemoryPlan
    scorer: Scorer
    revision: str

    @property
    def model(self) -> str:
        """Name of the checkpoint."""
        return Path(self.request.model).resolve().name

    def factors(self, found: Sequence[Found], *, command: str) -> Factors:
        """The file of what was found."""
        return self.footing.with_tiers(
            [one.tier for one in found],
            origin(self.request, found, model=self.model, revision=self.revision, command=command),
        )


def plan(request: Request) -> Plan:
    """Check everything that can be checked without weights. Raises ``LongRopeError``."""
    standing = footing(request)
    folder, longest = Path(request.model), request.lengths[-1]
    dtype, device = dtype_named(request.dtype), device_named(request.device)
    memory = MemoryPlan.of(folder, length=longest, dtype=dtype, device=device, gradient=request.method == "gradient")
    memory.check()
    encoder = Encoder(tokenizer_at(request.model))
    documents, held_out = _documents(request, encoder)
    _check_tokens([*documents, *held_out], request.model)
    make = partial(passages_of, request.objective, encoder=encoder, seed=request.seed)
    stages = []
    for length in request.lengths:
        first, choices = start_token_choices(request)
        stages.append(
            Stage(
                space=_space(request, standing, length, start_tokens=first),
                geometry=standing.geometry,
                passages=make(documents, length=length),
                held_out=make(held_out, length=length),
                settings=settings_of(request, length),
                seed=request.seed,
                start_tokens=choices,
                finalists=request.finalists,
            )
        )
    return Plan(
        request=request,
        footing=standing,
        stages=stages,
        memory=memory,
        scorer=Scorer(folder, standing.geometry, dtype=dtype, device=device),
        revision=checkpoint_identity(folder),
    )


def search(plan: Plan, storage: BaseStorage, *, worker: str, told: Watched | None = None) -> list[Found]:
    """Find the tier of each length, the shortest first; each length begins with what the one before it found.

    Raises what measuring raises; what was measured until then is kept in the study.
    """
    join = partial(Study.join, storage, request=plan.request.shared(), worker=worker)
    return list(_lengths(plan, join, plan.scorer.measure, told or Watched()))


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
        settings = _identity(plan, stage)
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


def _space(request: Request, standing: Footing, length: int, *, start_tokens: int) -> Space:
    window = standing.geometry.trained_window
    formulas = {"yarn": yarn_attention_factor(length / window)}
    formula = formulas.get(request.attention_factor, longrope_attention_factor(length / window, window))
    return Space.of(
        request.space,
        standing.geometry,
        standing.own if request.kind == "short" else standing.tier(request.lengths[0]),
        length=length,
        step=request.step,
        attention_factor=request.stated_attention_factor or formula,
        start_tokens=start_tokens,
        largest=request.largest,
    )


def _documents(request: Request, encoder: Encoder) -> tuple[list[Document], list[Document]]:
    """Those of the search and the held-out ones, from every source in turn."""
    wanted = request.samples + request.held_out
    each = -(-wanted // len(request.documents))
    found = cut_documents(request.documents, encoder.tokenizer, length=request.lengths[-1], count=each)
    turns = sorted(found, key=lambda document: document.index)  # stable: within a turn in the order of the sources
    return turns[: request.samples], turns[request.samples : wanted]


def _check_tokens(documents: Sequence[Document], model: str) -> None:
    """Raise ``SearchError`` when the tokenizer has tokens that the model does not know."""
    known = int(text_config(read_config(model))["vocab_size"])
    highest = max(int(document.tokens.max()) for document in documents)
    if highest >= known:
        raise SearchError(
            f"Expected a tokenizer with tokens below the model's {known:,}, found token {highest:,} in {model}: put "
            "the tokenizer there that belongs to the model."
        )


def _identity(plan: Plan, stage: Stage) -> dict[str, Any]:
    """All that decides the result of a stage; a study of another is refused."""
    request, space = plan.request, stage.space
    return {
        "model": plan.revision,
        "length": space.length,
        "footing": [space.footing.max_length, *space.footing.factors],
        "space": [space.name, space.smallest, space.largest, space.step, space.attention_factor, list(space.pivots)],
        "method": [request.method, *asdict(stage.settings).items()],
        "objective": request.objective,
        "seed": request.seed,
        "pruning": request.pruning,
        "finalists": request.finalists,
        "dtype": request.dtype,
        "start_tokens": [space.start_tokens, *stage.start_tokens],
        "documents": [passage.sha256 for passage in stage.passages],
        "held-out documents": [passage.sha256 for passage in stage.held_out],
    }
