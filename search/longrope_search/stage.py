"""The search of one length: from the seeds to the candidates that are scored again on held-out documents."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from longrope_search.candidate import Candidate
from longrope_search.methods.cma_es import CmaSettings, cma_es
from longrope_search.methods.engine import Batch, Engine
from longrope_search.methods.evolution import EvolutionSettings, evolution
from longrope_search.methods.gradient import GradientSettings, gradient
from longrope_search.methods.start_tokens import START_TOKENS, start_tokens
from longrope_search.model.passages import Passage
from longrope_search.model.scorer import BACKWARD
from longrope_search.request import Method, Request
from longrope_search.scoring.bench import Bench
from longrope_search.space import Point, Space
from longrope_vllm.factors import Tier
from longrope_vllm.geometry import Geometry
from longrope_vllm.rope import BASELINES

COMPARED = ("none", "pi", "ntk", "dynamic-ntk", "yarn")
"""Closed forms that a search is compared with, keys of ``BASELINES``."""

AS_TUNED = "as tuned"
"""Label of the tier that serves a length already."""

Settings = EvolutionSettings | CmaSettings | GradientSettings


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What is searched for one length."""

    space: Space
    geometry: Geometry
    passages: Sequence[Passage]
    held_out: Sequence[Passage]
    methods: tuple[Settings, ...]
    """One after the other: each begins with what the one before it found."""
    seed: int
    start_tokens: tuple[int, ...]
    """Numbers that the best point is tried with at the end, if any."""
    finalists: int
    served: Candidate | None = None
    """The tier that serves this length already, where a search of short lengths replaces it."""

    def engine(self, seeds: Sequence[Point]) -> Engine:
        """The methods, and after them the number of start tokens."""
        for settings in self.methods:
            point = yield from self._method(settings, seeds)
            seeds = [point]
        if self.start_tokens:
            yield from start_tokens(self.space, point, self.start_tokens)
        return point

    def _method(self, settings: Settings, seeds: Sequence[Point]) -> Engine:
        match settings:
            case EvolutionSettings():
                return evolution(self.space, seeds, settings, np.random.default_rng(self.seed))
            case CmaSettings():
                return cma_es(self.space, seeds, settings, self.seed)
            case GradientSettings():
                return gradient(self.space, seeds, settings, passages=len(self.passages))

    def planned(self, seeds: int) -> int:
        """Token-forwards at most, held-out documents included."""
        passes = 0
        for settings in self.methods:
            if isinstance(settings, GradientSettings):
                passes += (seeds + 3) * len(self.passages) + settings.steps * (1 + BACKWARD)
            else:
                passes += settings.evaluations * len(self.passages)
        passes += len(self.start_tokens) * len(self.passages)
        passes += (self.finalists + len(COMPARED)) * len(self.held_out)
        return passes * self.space.length

    def baselines(self) -> dict[str, Candidate]:
        """What serves this length today, if anything does, and the closed forms with their own attention factors.

        Closed forms stand over the footing; of those that are the same here only the first is there.
        """
        found = {} if self.served is None else {AS_TUNED: self.served}
        for name in COMPARED:
            form = baseline(name, self.space.footing, self.geometry, self.space.scale)
            if form not in found.values():
                found[name] = form
        return found

    def best(self, bench: Bench) -> list[Candidate]:
        """The finalists: of each vector of factors the best number of start tokens, in order of loss."""
        ranked = sorted(bench.complete, key=lambda candidate: bench.complete[candidate])
        found: dict[tuple[Any, ...], Candidate] = {}
        for candidate in ranked:
            found.setdefault((candidate.factors, candidate.attention_factor), candidate)
        return list(found.values())[: self.finalists]


def baseline(name: str, footing: Tier, geometry: Geometry, scale: float) -> Candidate:
    """The closed form ``name`` at ``scale`` over ``footing``, as a candidate."""
    form = BASELINES[name](replace(geometry, trained_window=footing.max_length), scale)
    factors = [known * factor for known, factor in zip(footing.factors, form.factors.tolist(), strict=True)]
    magnitude = footing.attention_factor * form.attention_factor
    return Candidate(factors=tuple(factors), attention_factor=magnitude, start_tokens=footing.start_tokens, origin=name)


def methods_of(request: Request, length: int) -> tuple[Settings, ...]:
    """Settings of the methods in their order, with what the user changed."""
    return tuple(_settings(method, request, length) for method in request.methods)


def _settings(method: Method, request: Request, length: int) -> Settings:
    match method:
        case "evolution":
            return EvolutionSettings.for_length(
                length, population=request.population, iterations=request.iterations, patience=request.patience
            )
        case "cma":
            return CmaSettings() if request.evaluations is None else CmaSettings(evaluations=request.evaluations)
        case "gradient":
            learn = request.attention_factor == "search"
            steps = GradientSettings.steps if request.steps is None else request.steps
            return GradientSettings(steps=steps, learn_attention_factor=learn)


def start_token_choices(request: Request) -> tuple[int, tuple[int, ...]]:
    """The number of start tokens during the search, and those that are tried after it."""
    return (0, START_TOKENS) if request.start_tokens == "search" else (int(request.start_tokens), ())


def run_engine(engine: Engine, bench: Bench) -> Point:
    """Drive ``engine`` to its end."""
    try:
        batch: Batch = next(engine)
        while True:
            batch = engine.send(bench.scores(batch))
    except StopIteration as ended:
        point: Point = ended.value
        return point
