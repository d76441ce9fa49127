"""A results page before it has a form: sections with a finding, what is measured, figures and tables.

In: a ``Summary``. Out: ``Section``s of plain text, which ``report`` renders as HTML and as Markdown; a task without
records has no section. Nothing is escaped here, and a figure is drawn only when it is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from longrope_vllm.evaluation.report.figure_style import Frame, styles
from longrope_vllm.evaluation.report.grid import ALL, Grid
from longrope_vllm.evaluation.report.perplexity_figures import draw_loss_by_position, draw_perplexity
from longrope_vllm.evaluation.report.score_figures import draw_needle_maps, draw_retention, draw_scores
from longrope_vllm.evaluation.report.short_scores import ShortScores
from longrope_vllm.evaluation.report.summary import LossCurve, NeedleMap, Summary
from longrope_vllm.evaluation.report.tables import Table, against_best, by_group, by_length, wrong_answers
from longrope_vllm.evaluation.report.wording import (
    KEYLESS,
    MEASURED,
    TITLES,
    as_percent,
    as_perplexity,
    count,
    finding,
    quoted,
    retained,
)
from longrope_vllm.lengths import format_length

Draw = Callable[[Grid, Frame], bytes]
"""Draws cells by length as a PNG."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure that is not drawn yet."""

    name: str
    """Of its file, without the suffix."""
    description: str
    """For those who do not see it."""
    draw: Callable[[], bytes]
    """Draws it as a PNG."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A task."""

    title: str
    finding: str
    """One sentence: which method did best, and how sure that is."""
    measured: str
    """What is measured, and how the intervals are made."""
    drawings: tuple[Drawing, ...]
    tables: tuple[Table, ...]


def sections(summary: Summary, *, trained_window: int) -> tuple[Section, ...]:
    """A section for each task that has records."""
    frame = Frame(title="", subtitle="", styles=styles(summary.methods), trained_window=trained_window)
    found = [_perplexity(summary, summary.perplexity, frame)] if summary.perplexity else []
    if summary.longppl:
        found.append(_longppl(summary, summary.longppl, frame))
    elif summary.keyless:
        found.append(Section(title="LongPPL", finding=KEYLESS, measured=MEASURED["longppl"], drawings=(), tables=()))
    for task, grid in (("passkey", summary.passkey), ("needle", summary.needle), ("ruler", summary.ruler)):
        if grid:
            found.append(_scores(task, summary, grid, frame))
    if summary.short:
        found.append(_short(summary.short, frame))
    return tuple(found)


def _perplexity(summary: Summary, grid: Grid, frame: Frame) -> Section:
    drawings = [
        _against_length("perplexity", "Perplexity against length", grid, frame, of="document", draw=draw_perplexity)
    ]
    if summary.curves:
        drawings.append(_curves_drawing(summary.curves, frame))
    tables = _by_group("Perplexity", grid)
    if summary.last_perplexity:
        tables += _by_group(f"Perplexity of the last {summary.last_tokens:,} tokens", summary.last_perplexity)
    verdict = summary.verdicts["ppl"]
    return Section(
        title="Perplexity",
        finding=finding(verdict),
        measured=MEASURED["ppl"],
        drawings=tuple(drawings),
        tables=_shown_first([*tables, *([against_best(verdict)] if verdict.others else [])]),
    )


def _longppl(summary: Summary, grid: Grid, frame: Frame) -> Section:
    verdict = summary.verdicts["longppl"]
    return Section(
        title="LongPPL",
        finding=finding(verdict),
        measured=MEASURED["longppl"],
        drawings=(
            _against_length("longppl", "LongPPL against length", grid, frame, of="document", draw=draw_perplexity),
        ),
        tables=_shown_first([*_by_group("LongPPL", grid), *([against_best(verdict)] if verdict.others else [])]),
    )


def _scores(task: str, summary: Summary, grid: Grid, frame: Frame) -> Section:
    title, verdict = TITLES[task], summary.verdicts[task]
    drawings = [_against_length(task, f"{title}: score against length", grid, frame, of="question", draw=draw_scores)]
    if task == "needle" and summary.needle_maps:
        drawings.append(_maps_drawing(summary.needle_maps, frame))
    tables = [by_length(f"{title}, %", grid, ALL, as_percent, best=max)]
    if len(grid.groups) > 1:
        tables[0] = replace(tables[0], caption=f"{title}, average, %")
        tables += [
            replace(by_group(f"{title} at {format_length(length)}, %", grid, length, as_percent), folded=True)
            for length in grid.lengths
        ]
    if verdict.others:
        tables.append(against_best(verdict))
    if task in summary.wrong_answers:
        tables.append(wrong_answers(summary.wrong_answers[task]))
    return Section(
        title=title,
        finding=finding(verdict),
        measured=MEASURED[task],
        drawings=tuple(drawings),
        tables=_shown_first(tables),
    )


def _short(short: ShortScores, frame: Frame) -> Section:
    length = short.scores.lengths[0]
    tables = [by_group("Score, %", short.scores, length, as_percent)]
    drawings = []
    if short.retention.cells:
        caption = f"Score over that of {quoted([short.baseline])}, %"
        tables.append(by_group(caption, short.retention, length, as_percent))
        framed = replace(
            frame,
            title="What is left on short benchmarks",
            subtitle=f"score over that of {quoted([short.baseline])} on the same questions, 95 % intervals",
        )
        drawings.append(
            Drawing(
                name="short",
                description="Share of the first method's score that each other method keeps, by benchmark.",
                draw=lambda: draw_retention(short, framed),
            )
        )
    return Section(
        title="Short benchmarks",
        finding=retained(short),
        measured=MEASURED["short"],
        drawings=tuple(drawings),
        tables=tuple(tables),
    )


def _by_group(title: str, grid: Grid) -> list[Table]:
    """Perplexities of all texts, then folded those of each group."""
    names = {group: f"{title}: {group or 'all texts'}" if len(grid.panels) > 1 else title for group in grid.panels}
    tables = [by_length(names[group], grid, group, as_perplexity, best=min) for group in grid.panels]
    return [tables[0], *(replace(table, folded=True) for table in tables[1:])]


def _shown_first(tables: Sequence[Table]) -> tuple[Table, ...]:
    """Folded tables last."""
    return tuple(sorted(tables, key=lambda table: table.folded))


def _against_length(name: str, title: str, grid: Grid, frame: Frame, *, of: str, draw: Draw) -> Drawing:
    """The figure of ``grid``, whose samples are ``of`` that kind; what is partial is left out of it."""
    samples = count(max(grid.most_samples(length) for length in grid.lengths), of)
    drawn = grid.without_partial()
    left_out = "" if len(drawn.cells) == len(grid.cells) else "; what has fewer is in the table only"
    subtitle = f"{samples} a length, 95 % intervals{_window_note(grid.lengths, frame)}{left_out}"
    framed = replace(frame, title=title, subtitle=subtitle)
    return Drawing(
        name=name,
        description=f"{title} under each method, with 95 % intervals.",
        draw=lambda: draw(drawn, framed),
    )


def _curves_drawing(curves: Sequence[LossCurve], frame: Frame) -> Drawing:
    documents = f"{count(curves[0].documents, 'document')} of {format_length(curves[0].length)} tokens"
    subtitle = f"mean of {documents}{_window_note([0, curves[0].length], frame)}"
    framed = replace(frame, title="Loss by position", subtitle=subtitle)
    return Drawing(
        name="loss_by_position",
        description="Mean loss along the longest documents under each method.",
        draw=lambda: draw_loss_by_position(curves, framed),
    )


def _maps_drawing(maps: Sequence[NeedleMap], frame: Frame) -> Drawing:
    subtitle = f"found out of asked{_window_note(maps[0].lengths, frame)}"
    framed = replace(frame, title="Needle by length and depth", subtitle=subtitle)
    return Drawing(
        name="needle_map",
        description="Answers by length and by depth of the needle in the text, a map for each method.",
        draw=lambda: draw_needle_maps(maps, framed),
    )


def _window_note(lengths: Sequence[int], frame: Frame) -> str:
    if not lengths[0] <= frame.trained_window <= lengths[-1]:
        return ""
    return f"; dotted line: trained window {format_length(frame.trained_window)}"
