"""Score batches of candidates: measure what the study does not know, alone or together with other workers.

A batch is measured passage by passage in any order and by anyone. What follows from the losses, pruning among it, is
decided when all of a step are there, so that every worker decides alike.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Batch, Gradient, Score
from longrope_search.model.passages import Passage
from longrope_search.model.scorer import BACKWARD, Measured
from longrope_search.scoring.pruning import rungs, standing
from longrope_search.scoring.study import Study, UnmeasuredError


class Measure(Protocol):
    """What runs the model: ``Scorer.measure``, or a formula in a test."""

    def __call__(self, candidate: Candidate, passage: Passage, *, gradient: bool) -> Measured:
        """One pass over ``passage``."""


_POLL = 0.5  # seconds between two looks at what others have measured
_PATIENCE = 5.0  # times the longest pass so far, after which a claim counts as left behind by a dead worker
_LEAST_PATIENCE = 10.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Task:
    """One pass that is asked for."""

    candidate: Candidate
    passage: int
    gradient: bool


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A score in the course of a search."""

    token_forwards: int
    """Spent until then."""
    loss: float
    complete: bool
    """Over all passages; a step of gradient descent sees some of them only."""


class Told:
    """Who is told what happens; this one says nothing."""

    def began(self, batch: Batch) -> None:
        """A batch begins."""

    def measured(self, task: Task, measured: Measured, *, here: bool) -> None:
        """A pass is known; ``here`` when this process made it just now."""

    def scored(self, candidate: Candidate, score: Score, *, complete: bool) -> None:
        """A candidate has its score; ``complete`` when it is the mean over all passages."""


class Bench:
    """The passages of one search with the study that remembers them."""

    def __init__(
        self,
        study: Study,
        passages: Sequence[Passage],
        measure: Measure | None,
        *,
        pruning: bool,
        told: Told | None = None,
    ) -> None:
        self._study = study
        self._passages = passages
        self._measure = measure
        self._pruning = pruning
        self._told = told or Told()
        self._weights = np.array([passage.counted for passage in passages], dtype=np.float64)
        self._tasks: set[Task] = set()
        self._spent = 0
        self.complete: dict[Candidate, float] = {}
        """Loss of every candidate that was scored on all passages, in the order of scoring."""
        self.history: list[Moment] = []
        self.evaluations = 0
        """Candidates that were scored, pruned ones and steps of gradient descent among them."""

    @property
    def token_forwards(self) -> int:
        """Tokens that went through the model for the scores so far, a backward pass counted as three forward ones."""
        return self._spent

    def scores(self, batch: Batch) -> list[Score]:
        """In the order of the batch's candidates. Raises what measuring raises."""
        self._told.began(batch)
        if batch.passages is not None:
            return [self._partial(candidate, batch.passages, batch.gradient) for candidate in batch.candidates]
        everyone = [*batch.candidates, *batch.rivals]
        race = list(range(len(batch.candidates)))
        pruned: dict[int, tuple[int, float]] = {}  # row to the reference's row, and how much worse it is
        for step in rungs(len(self._passages), pruning=self._pruning):
            self._know([_task(batch.candidates[row], at) for row in race for at in step])
            if step.stop < len(self._passages):
                losses = np.array([self._losses(candidate, step.stop) for candidate in everyone])
                found = standing(losses, keep=batch.keep, passages=len(self._passages))
                pruned = {row: (found.reference, found.worse[row]) for row in race if found.clearly[row]}
                race = [row for row in race if row not in pruned]
        means = {row: self._mean(everyone[row]) for row in [*race, *(kept for kept, _ in pruned.values())]}
        return [
            self._pruned(candidate, means[pruned[row][0]] + pruned[row][1])
            if row in pruned
            else self._complete(candidate, means[row])
            for row, candidate in enumerate(batch.candidates)
        ]

    def measured(self, candidate: Candidate) -> list[Measured]:
        """What is known of a candidate that was scored on all passages, passage by passage."""
        return [self._known(_task(candidate, at)) for at in range(len(self._passages))]

    def _partial(self, candidate: Candidate, passages: Sequence[int], gradient: bool) -> Score:
        self._know([_task(candidate, at, gradient=gradient) for at in passages])
        measured = [self._known(_task(candidate, at, gradient=gradient)) for at in passages]
        weights = self._weights[list(passages)]
        loss = float(np.average([found.loss for found in measured], weights=weights))
        slopes = [found.gradient for found in measured if found.gradient is not None]
        score = Score(loss=loss, gradient=_mean_gradient(slopes, weights) if slopes else None)
        self._finish(candidate, loss, complete=False, gradient=gradient)
        return self._scored(candidate, score, complete=False)

    def _complete(self, candidate: Candidate, loss: float) -> Score:
        self.complete[candidate] = loss
        self._finish(candidate, loss, complete=True)
        return self._scored(candidate, Score(loss=loss), complete=True)

    def _pruned(self, candidate: Candidate, estimate: float) -> Score:
        self._finish(candidate, estimate, complete=False)
        return self._scored(candidate, Score(loss=estimate, pruned=True), complete=False)

    def _finish(self, candidate: Candidate, loss: float, *, complete: bool, gradient: bool = False) -> None:
        if self._measure is not None:  # who only reads changes nothing
            self._study.finish(candidate, loss, complete=complete, gradient=gradient)

    def _scored(self, candidate: Candidate, score: Score, *, complete: bool) -> Score:
        self.evaluations += 1
        if not score.pruned:
            self.history.append(Moment(token_forwards=self.token_forwards, loss=score.loss, complete=complete))
        self._told.scored(candidate, score, complete=complete)
        return score

    def _losses(self, candidate: Candidate, first: int) -> list[float]:
        return [self._known(_task(candidate, at)).loss for at in range(first)]

    def _mean(self, candidate: Candidate) -> float:
        return float(np.average(self._losses(candidate, len(self._passages)), weights=self._weights))

    def _known(self, task: Task) -> Measured:
        found = self._study.measured(task.candidate, task.passage, gradient=task.gradient)
        assert found is not None
        return found

    def _know(self, tasks: Sequence[Task]) -> None:
        """Return when every one of ``tasks`` is measured, by whomever."""
        waiting = list(dict.fromkeys(tasks))
        self._study.refresh()
        while waiting:
            for task in list(waiting):
                found = self._study.measured(task.candidate, task.passage, gradient=task.gradient)
                if found is not None:
                    waiting.remove(task)
                    self._note(task, found, here=False)
            if waiting and self._measure is None:
                raise UnmeasuredError(waiting[0])
            task_here = self._next(waiting)
            if task_here is not None:
                self._measure_here(task_here)
                waiting.remove(task_here)
            elif waiting:
                time.sleep(_POLL)
            self._study.refresh()

    def _next(self, waiting: Sequence[Task]) -> Task | None:
        """One that nobody else measures, and when there is none one whose claim is so old that its worker is gone."""
        claims = {
            task: self._study.claimed_for(task.candidate, task.passage, gradient=task.gradient) for task in waiting
        }
        for task, age in claims.items():
            if age is None and self._study.claim(task.candidate, task.passage, gradient=task.gradient):
                return task
        patience = max(_LEAST_PATIENCE, _PATIENCE * max(self._study.seconds, default=0.0))
        oldest = max(claims.items(), key=lambda claim: claim[1] or 0.0, default=None)
        if oldest is None or (oldest[1] or 0.0) < patience:
            return None
        self._study.claim(oldest[0].candidate, oldest[0].passage, gradient=oldest[0].gradient)
        return oldest[0]

    def _measure_here(self, task: Task) -> None:
        assert self._measure is not None
        found = self._measure(task.candidate, self._passages[task.passage], gradient=task.gradient)
        found = self._study.write(task.candidate, task.passage, found)
        self._note(task, found, here=True)

    def _note(self, task: Task, found: Measured, *, here: bool) -> None:
        if task not in self._tasks:
            self._tasks.add(task)
            self._spent += len(self._passages[task.passage].tokens) * (1 + BACKWARD * task.gradient)
            self._told.measured(task, found, here=here)


def _task(candidate: Candidate, passage: int, *, gradient: bool = False) -> Task:
    return Task(candidate=candidate, passage=passage, gradient=gradient)


def _mean_gradient(slopes: Sequence[Gradient], weights: np.ndarray) -> Gradient:
    return Gradient(
        log_factors=np.average([slope.log_factors for slope in slopes], axis=0, weights=weights),
        log_attention_factor=float(np.average([slope.log_attention_factor for slope in slopes], weights=weights)),
    )
