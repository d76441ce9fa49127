"""Made-up searches: plans without a model, and what was found, with losses by a formula of the factors."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from longrope_search.candidate import Candidate
from longrope_search.footing import Footing
from longrope_search.methods.gradient import GradientSettings
from longrope_search.methods.seeds import seeds
from longrope_search.model.passages import Passage
from longrope_search.model.scorer import BACKWARD
from longrope_search.plan import Plan
from longrope_search.request import Request
from longrope_search.result import Found, Row
from longrope_search.scoring.bench import Moment
from longrope_search.space import Point, Space
from longrope_search.stage import Stage, methods_of, start_token_choices
from longrope_vllm.factors import own_tier
from longrope_vllm.geometry import Geometry

WINDOW = 2048
GEOMETRY = Geometry(
    head_size=64, rotary_dim=64, base=100_000.0, trained_window=WINDOW, max_positions=WINDOW, rope_type="default"
)
_LOSSES = {"none": 7.9, "pi": 3.05, "ntk": 2.42, "dynamic-ntk": 2.61, "yarn": 2.31}
"""Past the window, in nats."""
_BUCKET = 512


def made_plan(folder: Path, *, lengths: tuple[int, ...] = (16384,), model: str = "tiny", **asked: object) -> Plan:
    """A plan for ``lengths``, as it is after all checks."""
    stated = {"method": "evolution", **asked}
    request = Request(model=str(folder / model), lengths=lengths, out=folder / "factors.json", **stated)  # type: ignore[arg-type]
    own = own_tier(GEOMETRY)
    stages = []
    for length in lengths:
        first, choices = start_token_choices(request)
        space = Space.of(
            request.space, GEOMETRY, own, length=length, step=1e-4, attention_factor=1.13, start_tokens=first
        )
        stages.append(
            Stage(
                space=space,
                geometry=GEOMETRY,
                passages=[_passage(f"search {n}", length, request.objective) for n in range(request.samples)],
                held_out=[_passage(f"held out {n}", length, request.objective) for n in range(request.held_out)],
                methods=methods_of(request, length),
                seed=0,
                start_tokens=choices,
                finalists=request.finalists,
            )
        )
    return Plan(
        request=request,
        footing=Footing(geometry=GEOMETRY, own=own, tuned=None),
        stages=stages,
        revision=f"{model} 0123456789abcdef",
    )


def made_found(stage: Stage, *, gain: float = 0.06, curves: bool = True, finished: bool = True) -> Found:
    """A search whose best factors have a loss ``gain`` nats below YaRN's on held-out documents."""
    best = found_candidate(stage)
    losses = dict(_seed_losses(stage)) | {best: _LOSSES["yarn"] - 0.05, _second(best): _LOSSES["yarn"] - 0.04}
    history = _history(stage, list(losses.values()))
    rows = {"searched": (best, _LOSSES["yarn"] - gain)} if finished else {}
    forms = {name: (form, _LOSSES[name]) for name, form in stage.baselines().items()} if finished else {}
    return Found(
        length=stage.space.length,
        finalists=[_row(name, *found, stage, curves) for name, found in rows.items()]
        + ([_row("searched", _second(best), _LOSSES["yarn"] - gain + 0.02, stage, curves)] if finished else []),
        baselines=[_row(name, *found, stage, curves) for name, found in forms.items()],
        search_losses=losses,
        history=history,
        evaluations=len(history) + 3,
        token_forwards=history[-1].token_forwards + stage.space.length,
        passages=stage.passages,
        held_out=stage.held_out,
    )


def found_candidate(stage: Stage) -> Candidate:
    """The best of the search: 4 start tokens, factors between those of YaRN and NTK-aware."""
    forms = stage.baselines()
    mixed = np.sqrt(np.array(forms["yarn"].factors) * np.array(forms["ntk"].factors))
    point = Point(factors=mixed, attention_factor=1.13, origin="mutant")
    return stage.space.candidate(point, start_tokens=4)


def _second(best: Candidate) -> Candidate:
    return Candidate(factors=tuple(factor * 1.01 for factor in best.factors), attention_factor=1.13, origin="crossover")


def _seed_losses(stage: Stage) -> dict[Candidate, float]:
    return {
        stage.space.candidate(point): _LOSSES.get(point.origin, 2.4) + 0.01
        for point in seeds(stage.space, stage.geometry)
    }


def _history(stage: Stage, losses: Sequence[float]) -> list[Moment]:
    """The seeds, then for gradient descent steps of one passage, else 60 candidates; the best comes last."""
    cost = stage.space.length * len(stage.passages)
    moments = [Moment(token_forwards=cost * (n + 1), loss=loss, complete=True) for n, loss in enumerate(losses[:-2])]
    spent, start, end = moments[-1].token_forwards, min(losses[:-2]), losses[-2]
    steps = 40 if isinstance(stage.methods[0], GradientSettings) else 60
    whole = steps == 60
    for step in range(steps):
        spent += cost if whole else stage.space.length * (1 + BACKWARD)
        wave = 0.03 * abs(math.sin(step)) if whole else 0.2 * math.sin(2 * math.pi * step / len(stage.passages))
        loss = end + (start - end) * math.exp(-step / 12) + wave
        moments.append(Moment(token_forwards=spent, loss=loss, complete=whole))
    moments.append(Moment(token_forwards=spent + cost, loss=end, complete=True))
    return moments


def _row(label: str, candidate: Candidate, loss: float, stage: Stage, curves: bool) -> Row:
    """Documents are 0.2 nats apart; how much a row is better differs a little from one to the next."""
    documents = len(stage.held_out)
    tilt = 0.004 * sum(map(ord, label)) % 0.011
    losses = [loss + 0.2 * n + tilt * (n - (documents - 1) / 2) for n in range(documents)]
    places = np.arange(0, stage.space.length, _BUCKET) + _BUCKET / 2
    shape = [2.0 / math.sqrt(place / 64) + (loss - 2.3) * max(0.0, math.log2(place / WINDOW)) for place in places]
    found = tuple(tuple(loss - 0.3 + part for part in shape) for loss in losses) if curves else ()
    last = tuple(loss - 0.1 for loss in losses) if curves else ()
    return Row(label=label, candidate=candidate, losses=tuple(losses), last=last, curves=found)


def _passage(name: str, length: int, objective: str) -> Passage:
    tokens = torch.full((length,), len(name), dtype=torch.int64)
    return Passage(name=name, tokens=tokens, counted=length - 1 if objective == "perplexity" else 9)
