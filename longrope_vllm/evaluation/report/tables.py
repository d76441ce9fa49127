"""Tables of a results page, as text without a form: rows of labelled cells.

In: grids, verdicts, answers. Out: ``Table``s. A cell that was not measured is an en dash; one with fewer samples than
another method's is marked, for the two are not yet comparable, and is never the best.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.report.comparison import Verdict
from longrope_vllm.evaluation.report.grid import ALL, Grid
from longrope_vllm.evaluation.report.wording import MISSING, as_perplexity, as_points, as_range, quoted
from longrope_vllm.lengths import format_length

MOST_ANSWERS = 50
"""Wrong answers that are shown; the journal has all of them."""
_LONGEST_ANSWER = 300

Wording = Callable[[float], str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number."""

    text: str
    interval: str = ""
    best: bool = False
    partial: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A label and what stands beside it."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a header."""

    caption: str
    header: tuple[str, ...]
    """Of the labels, then of the cells."""
    rows: tuple[Row, ...]
    folded: bool = False
    """Whether a page shows it on demand only."""
    is_prose: bool = False
    """Whether its cells are words, which stand at the left."""


def by_length(caption: str, grid: Grid, group: str, text: Wording, *, best: Callable[..., float]) -> Table:
    """A row for each method, a column for each length; ``best`` is ``min`` or ``max``."""
    columns = [
        _column(grid, [(method, length, group) for method in grid.methods], text, best) for length in grid.lengths
    ]
    rows = [
        Row(label=method, cells=tuple(column[place] for column in columns)) for place, method in enumerate(grid.methods)
    ]
    header = ("method", *(format_length(length) for length in grid.lengths))
    return Table(caption=caption, header=header, rows=tuple(rows))


def by_group(caption: str, grid: Grid, length: int, text: Wording) -> Table:
    """A row for each task and their average, a column for each method; the highest in a row is the best."""
    groups = [*grid.groups, *(group for group in grid.panels if group == ALL)]
    rows = [
        Row(
            label=group or "average",
            cells=tuple(_column(grid, [(method, length, group) for method in grid.methods], text, max)),
        )
        for group in groups
    ]
    return Table(caption=caption, header=("task", *grid.methods), rows=tuple(rows))


def against_best(verdict: Verdict) -> Table:
    """The other methods against the best one, on the samples that both have."""
    is_ratio = verdict.measure == "perplexity"
    text, figure = (as_perplexity, "perplexity, times") if is_ratio else (as_points, "score, points")
    rows = [
        Row(
            label=other.method,
            cells=(
                Cell(text=text(other.estimate.value)),
                Cell(text=as_range(other.estimate, text) or MISSING),
                Cell(text=f"{other.estimate.samples:,}"),
                Cell(text="yes" if other.apart else "no"),
            ),
        )
        for other in verdict.others
    ]
    return Table(
        caption=f"Against {quoted([verdict.best])} at {format_length(verdict.length)}, on the same samples",
        header=("method", figure, "95 % interval", "samples", "told apart"),
        rows=tuple(rows),
    )


def wrong_answers(records: Sequence[Record]) -> Table:
    """The first wrong answers beside what was expected."""
    rows = [
        Row(
            label=record.key.method,
            cells=(
                Cell(text=format_length(record.key.length)),
                Cell(text=f"{100 * record.values['depth']:.0f} %" if "depth" in record.values else MISSING),
                Cell(text=record.expected),
                Cell(text=_shortened(record.answer)),
            ),
        )
        for record in records[:MOST_ANSWERS]
    ]
    shown = f"first {MOST_ANSWERS} of {len(records):,}" if len(records) > MOST_ANSWERS else f"{len(records):,}"
    return Table(
        caption=f"Wrong answers ({shown})",
        header=("method", "tokens", "depth", "expected", "answer"),
        rows=tuple(rows),
        folded=True,
        is_prose=True,
    )


def _column(
    grid: Grid, places: Sequence[tuple[str, int, str]], text: Wording, best: Callable[..., float]
) -> list[Cell]:
    """Cells that are compared with each other; the best is marked where there are several."""
    whole = [cell.value for place in places if (cell := grid.at(*place)) and not grid.is_partial(*place)]
    target = best(whole) if len(whole) > 1 else None
    cells = []
    for place in places:
        found, partial = grid.at(*place), grid.is_partial(*place)
        if found is None:
            cells.append(Cell(text=MISSING))
            continue
        is_best = not partial and found.value == target
        cells.append(Cell(text=text(found.value), interval=as_range(found, text), best=is_best, partial=partial))
    return cells


def _shortened(answer: str) -> str:
    return answer if len(answer) <= _LONGEST_ANSWER else answer[:_LONGEST_ANSWER] + "…"
