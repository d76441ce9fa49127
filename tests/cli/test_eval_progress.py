"""What ``longrope eval`` shows while it measures, by a clock of the test's own."""

import re
from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from longrope_vllm.cli.eval import Watch, result
from longrope_vllm.evaluation.records import Key, Record
from longrope_vllm.evaluation.work import Work


def record(length: int, **values: float) -> Record:
    return Record(key=Key("ppl", "yarn", length, "prose", "1"), values=values)


def work(length: int, passes: float) -> Work:
    key = record(length).key
    return Work(title=key.title, keys=(key,), tokens=length, passes=passes, measure=list)


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as a list of one number."""
    now = [0.0]
    monkeypatch.setattr("longrope_vllm.cli.eval.monotonic", lambda: 60 * now[0])
    return now


def shown(now: list[float], *, terminal: bool) -> str:
    """A quarter of the work in ten minutes, then half of it in ten more."""
    pieces = [work(8192, 1.0), work(8192, 2.0), work(8192, 1.0)]
    written = StringIO()
    console = Console(file=written, force_terminal=terminal, width=200, highlight=False, legacy_windows=False)
    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, disable=not terminal, auto_refresh=False) as progress:
        told = Watch(progress, pieces)
        for place, piece in enumerate(pieces[:2]):
            told.began(piece)
            now[0] = 10.0 * (place + 1)
            told.ended(piece, [record(8192, loss=2.5, tokens=8191.0)])
            progress.refresh()
    return re.sub(r"\x1b\[[\d;?]*\w", "", written.getvalue())


def test_without_a_terminal_each_measurement_is_a_line_with_the_time_that_is_left(minutes: list[float]) -> None:
    assert shown(minutes, terminal=False).splitlines() == [
        "1/3  ppl yarn 8k prose 1  loss 2.500, about 30 min left",
        "2/3  ppl yarn 8k prose 1  loss 2.500, about 7 min left",
    ]


def test_a_terminal_shows_what_is_measured_and_the_time_that_is_left(minutes: list[float]) -> None:
    written = shown(minutes, terminal=True)
    assert "ppl yarn 8k prose 1 about 30 min left" in written
    assert "ppl yarn 8k prose 1 about 7 min left" in written
    assert "loss" not in written


def test_the_figure_of_a_record_is_the_one_that_says_most() -> None:
    assert result(record(8192, tokens=10.0, loss=2.5)) == "loss 2.500"
    assert result(record(8192, depth=0.5, score=1.0)) == "score 1.000"
    assert result(record(0, acc_norm=0.25)) == "acc_norm 0.250"
    assert result(record(8192, loss=0.0, tokens=0.0)) == "no key token"
