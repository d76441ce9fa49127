"""What a person sees of a running search: a bar at a terminal, elsewhere a line every half minute."""

import math
from time import monotonic
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Batch, Score
from longrope_search.model.scorer import BACKWARD, Measured
from longrope_search.scoring.bench import Task
from longrope_search.search import Watched
from longrope_search.stage import Stage
from longrope_vllm.lengths import format_length

_BETWEEN = 30.0  # seconds between two lines, where nobody watches a bar


class Watch(Watched):
    """The best so far, evaluations a second, and the time that is left."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[at]}"))
        self._console = console
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, stage: Stage, planned: int) -> None:
        """The search of one length begins."""
        self._name, self._planned = format_length(stage.space.length), planned
        self._length = stage.space.length
        self._known = self._here = 0  # token-forwards: all, and those of this process
        self._measured: set[str] = set()  # candidates that were measured here
        self._evaluations = 0
        self._best: tuple[float, str] | None = None
        self._began = self._spoke = monotonic()
        self._title = ""
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._bar = self._progress.add_task(self._name, total=planned, at="")

    def began(self, batch: Batch) -> None:
        """A batch begins."""
        self._title = batch.title

    def measured(self, task: Task, measured: Measured, *, here: bool) -> None:
        """A pass is known."""
        cost = self._length * (1 + BACKWARD * task.gradient)
        self._known += cost
        self._here += cost * here
        if here:
            self._measured.add(task.candidate.key)
        self._show()

    def scored(self, candidate: Candidate, score: Score, *, complete: bool) -> None:
        """A candidate has its score."""
        self._evaluations += 1
        if complete and self._title != "held-out documents" and (self._best is None or score.loss < self._best[0]):
            self._best = (score.loss, candidate.origin)
            self._show()

    def _show(self) -> None:
        assert self._bar is not None
        line = self._line()
        self._progress.update(self._bar, completed=self._known, description=f"{self._name} {self._title}", at=line)
        if self._progress.disable and (monotonic() - self._spoke > _BETWEEN):
            self._spoke = monotonic()
            self._console.print(f"{self._name}: {self._title}: {line}")

    def _line(self) -> str:
        elapsed = monotonic() - self._began
        parts = [f"{self._evaluations} evaluations"]
        if self._best is not None:
            parts.insert(0, f"best perplexity {math.exp(self._best[0]):.4g} ({self._best[1]})")
        if self._here:
            parts.append(f"{len(self._measured) / elapsed:.2g}/s")
            left = (self._planned - self._known) * elapsed / self._here
            parts.append(f"at most {_time(left)} left")
        return ", ".join(parts)


def _time(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
