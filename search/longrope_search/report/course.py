"""The course of a search in perplexity: what it had reached for how many token-forwards, and what closed forms reach.

In: a ``Found`` and its ``Stage``. Out: a ``Course``, from which a figure is drawn. All of it is of the documents of the
search, over all of them; a step of gradient descent sees some of them only and counts in a moving mean that sees all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from longrope_search.report.closed_forms import on_search_documents
from longrope_search.result import Found
from longrope_search.scoring.bench import Moment
from longrope_search.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A perplexity, and the token-forwards spent until then."""

    token_forwards: int
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a figure of the course shows."""

    best: tuple[Reached, ...]
    """Each time a candidate was better than all before."""
    steps: tuple[Reached, ...]
    """Of gradient descent: the mean of as many steps as there are passages, once there are so many."""
    closed_forms: Mapping[str, float]
    """Perplexities of those that were among the first candidates and scored on all passages."""
    token_forwards: int
    """Spent in all so far."""


def course(found: Found, stage: Stage) -> Course | None:
    """None while nothing was scored on all passages."""
    best = best_so_far(found.history)
    if not best:
        return None
    return Course(
        best=best,
        steps=moving_mean(found.history, run=len(found.passages)),
        closed_forms={name: math.exp(loss) for name, loss in on_search_documents(found, stage).items()},
        token_forwards=found.token_forwards,
    )


def best_so_far(history: Sequence[Moment]) -> tuple[Reached, ...]:
    """Where a complete score was lower than all before it."""
    reached: list[Reached] = []
    lowest = math.inf
    for moment in history:
        if moment.complete and moment.loss < lowest:
            lowest = moment.loss
            reached.append(Reached(token_forwards=moment.token_forwards, perplexity=math.exp(lowest)))
    return tuple(reached)


def moving_mean(history: Sequence[Moment], *, run: int) -> tuple[Reached, ...]:
    """Of the incomplete scores, each with the ``run - 1`` before it: steps take the passages in turn."""
    steps = [moment for moment in history if not moment.complete]
    return tuple(
        Reached(
            token_forwards=steps[end - 1].token_forwards,
            perplexity=math.exp(math.fsum(step.loss for step in steps[end - run : end]) / run),
        )
        for end in range(run, len(steps) + 1)
    )
