"""What a person sees of a running training: a bar at a terminal, elsewhere a line every half minute."""

import math
from time import monotonic
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TaskProgressColumn, TextColumn
from transformers import TrainerCallback

from longrope_training.data.schedule import Schedule
from longrope_vllm.lengths import format_length

_BETWEEN = 30.0  # seconds between two lines, where nobody watches a bar


class TextWatch:
    """Tokens that are prepared."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(*_columns(), console=console, disable=not console.is_terminal, transient=True)
        self._spoke = monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        self._bar = self._progress.add_task("preparing text", at="")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, wanted: int) -> None:
        """``done`` of the ``wanted`` tokens are on disk."""
        self._progress.update(self._bar, completed=done, total=wanted, at=f"{done:,} of {wanted:,} tokens")
        if self._progress.disable and monotonic() - self._spoke > _BETWEEN:
            self._spoke = monotonic()
            self._console.print(f"preparing text: {done:,} of {wanted:,} tokens")


class Watch(TrainerCallback):  # type: ignore[misc]
    """Loss by kind of row, tokens a second, memory, and the time that is left."""

    def __init__(self, console: Console, schedule: Schedule) -> None:
        self._console = console
        self._schedule = schedule
        self._progress = Progress(*_columns(), console=console, disable=not console.is_terminal)
        self._bar: TaskID | None = None
        self._spoke = -math.inf

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()  # however training ends: a terminal has its cursor back

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The first of the steps that are left is next."""
        self._first, self._began = state.global_step, monotonic()
        self._bar = self._progress.add_task("training", total=self._schedule.steps, completed=state.global_step, at="")

    def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """A step is done."""
        entry = state.log_history[-1]
        if "loss" not in entry:
            return
        assert self._bar is not None
        done = state.global_step
        text = f"step {done} of {self._schedule.steps}, {format_length(entry['length'])}"
        line = self._line(entry, done)
        self._progress.update(self._bar, completed=done, description=text, at=line)
        last = done == self._schedule.steps
        if self._progress.disable and (last or monotonic() - self._spoke > _BETWEEN):
            self._spoke = monotonic()
            self._console.print(f"{text}: {line}")

    def _line(self, entry: dict[str, Any], done: int) -> str:
        kinds = [f"{kind} {entry[f'loss_{kind}']:.3f}" for kind in ("long", "short") if f"loss_{kind}" in entry]
        left = (self._schedule.steps - done) * (monotonic() - self._began) / max(1, done - self._first)
        return ", ".join(
            [
                f"loss {' '.join(kinds)}",
                f"{entry['tokens_per_second']:,.0f} tokens/s",
                f"{entry['tokens']:,} tokens",
                f"{entry['memory'] / 1e9:.1f} GB",
                f"{_time(left)} left",
            ]
        )


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[at]}")


def _time(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
