"""The course of a finished search, read from its study: what it had found when so many token-forwards were spent."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from longrope_search.plan import plan
from longrope_search.request import Request
from longrope_search.scoring.storage import open_storage
from longrope_search.scoring.study import requests
from longrope_search.search import so_far

Course = tuple[tuple[int, float], ...]
"""(token-forwards, best mean loss so far in nats)."""


def course(out: Path) -> Course:
    """Of the search that wrote ``out``, from the study beside it; the longest length of several."""
    storage = open_storage(str(out.with_suffix(".study.log")), make=False)
    *_, found = so_far(plan(Request.of_shared(requests(storage)[0])), storage)
    best, points = math.inf, []
    for moment in found.history:
        if moment.complete:
            best = min(best, moment.loss)
            points.append((moment.token_forwards, best))
    return tuple(points)


def draw_courses(axes: Axes, courses: Sequence[tuple[str, Course]], colors: Mapping[str, str]) -> None:
    """A line for each search; those of one name share a colour and a place in the legend."""
    named: set[str] = set()
    for name, points in courses:
        spent, losses = zip(*points, strict=True)
        label = None if name in named else name
        axes.step(spent, losses, where="post", color=colors[name], linewidth=1.6, alpha=0.85, label=label)
        named.add(name)
    axes.set(xlabel="token-forwards", ylabel="best mean loss so far, nats a token")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
