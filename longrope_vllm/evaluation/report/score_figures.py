"""Figures of scores: against length, over length and depth, and what short benchmarks kept, as PNG."""

import math
from collections.abc import Sequence
from typing import Any

from longrope_vllm.evaluation.report.figure_style import (
    INK,
    MUTED,
    RULE,
    Frame,
    beside,
    clean,
    legend,
    length_axis,
    mark_window,
    new_figure,
    plain,
    png,
)
from longrope_vllm.evaluation.report.grid import ALL, Grid
from longrope_vllm.evaluation.report.short_scores import ShortScores
from longrope_vllm.evaluation.report.summary import NeedleMap
from longrope_vllm.lengths import format_length

_MOST_RETENTION = 1.6
"""An interval that reaches further is cut off at the edge."""


def draw_scores(table: Grid, frame: Frame) -> bytes:
    """Score against length; a panel for the average and one for each group."""
    panels = table.panels
    columns = min(len(panels), 3 if len(panels) <= 9 else 4)
    rows = math.ceil(len(panels) / columns)
    single = len(panels) == 1
    width = {1: 10.0, 2: 10.0, 3: 13.0}.get(columns, 15.0)
    figure = new_figure(frame, width=width, height=4.6 if single else 2.9 * rows + 0.4)
    for place, group in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        length_axis(axes, table.lengths)
        axes.set_ylim(-0.04, 1.05)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        clean(axes, title="" if single else "average" if group == ALL else group)
        for turn, method in enumerate(table.methods):
            style = frame.styles[method]
            found = [(length, cell) for length in table.lengths if (cell := table.at(method, length, group))]
            xs = [beside(length, turn, len(table.methods)) for length, _ in found]
            line = {"color": style.color, "linestyle": style.dash, "linewidth": 1.8}
            axes.plot(xs, [cell.value for _, cell in found], marker=style.marker, markersize=5.5, zorder=3, **line)
            for x, (_, cell) in zip(xs, found, strict=True):
                if cell.interval:
                    axes.vlines(x, *cell.interval, color=style.color, alpha=0.5, zorder=2)
        mark_window(axes, frame.trained_window)
        if place % columns == 0:
            axes.set_ylabel("score")
        if place >= len(panels) - columns:
            axes.set_xlabel("tokens (log scale)")
    legend(figure, frame, table.methods)
    return png(figure)


def draw_needle_maps(maps: Sequence[NeedleMap], frame: Frame) -> bytes:
    """A panel for each method: red is not found, blue is found, and the cells say how many of how many."""
    columns = min(len(maps), 3)
    rows = math.ceil(len(maps) / columns)
    width = {1: 7.0, 2: 10.0}.get(columns, 13.0)
    figure = new_figure(frame, width=width, height=(0.9 + 0.32 * max(4, len(maps[0].depths))) * rows)
    from matplotlib import colormaps

    colors = colormaps["RdYlBu"]
    for place, found in enumerate(maps):
        axes = figure.add_subplot(rows, columns, place + 1)
        _draw_map(axes, found, colors)
        axes.set_title(plain(found.method), loc="left", fontsize=11, fontweight="bold", color=INK)
        if place % columns == 0:
            axes.set_ylabel("depth of the needle")
        if place >= len(maps) - columns:
            axes.set_xlabel("tokens")
        inside = sum(length <= frame.trained_window for length in found.lengths)
        if 0 < inside < len(found.lengths):
            axes.axvline(inside - 0.5, color=INK, linewidth=1.6, linestyle=":")
    return png(figure)


def draw_retention(short: ShortScores, frame: Frame) -> bytes:
    """For each benchmark the share of the baseline's score that each method kept, with its interval."""
    retention = short.retention
    benchmarks, methods = retention.groups, retention.methods
    figure = new_figure(frame, width=10, height=1.3 + len(benchmarks) * max(0.5, 0.24 * len(methods)))
    axes = figure.add_subplot()
    ends = [end for cell in retention.cells.values() for end in (cell.value, *(cell.interval or ()))]
    low, high = min([0.95, *ends]), min(max([1.05, *ends]), _MOST_RETENTION)
    axes.set_xlim(max(0.0, low - 0.02), high + 0.02)
    axes.set_ylim(len(benchmarks) - 0.5, -0.5)
    axes.axvline(1, color="#333333", linewidth=1.2, linestyle=":")
    for row, benchmark in enumerate(benchmarks):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.035, linewidth=0)
        for turn, method in enumerate(methods):
            cell = retention.at(method, retention.lengths[0], benchmark)
            if cell is None:
                continue
            y = row + 0.7 * ((turn + 0.5) / len(methods) - 0.5)
            style = frame.styles[method]
            axes.plot([min(cell.value, high)], [y], marker=style.marker, markersize=7, color=style.color, zorder=3)
            if cell.interval:
                axes.hlines(y, *cell.interval, color=style.color, linewidth=2, alpha=0.6, zorder=2)
    clean(axes)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x", color=RULE, linewidth=0.8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_yticks(range(len(benchmarks)), [plain(benchmark) for benchmark in benchmarks])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(plain(f"score over that of “{short.baseline}”"))
    legend(figure, frame, methods)
    return png(figure)


def _draw_map(axes: Any, found: NeedleMap, colors: Any) -> None:
    for row, depth in enumerate(found.depths):
        for column, length in enumerate(found.lengths):
            cell = found.cells.get((length, depth))
            share = cell.score / cell.samples if cell else 0.0
            color = colors(0.04 + 0.92 * share) if cell else "#eeeeee"
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(_tile(corner, color))
            text = f"{cell.score:g}/{cell.samples}" if cell else "–"
            on_dark = cell is not None and (share > 0.85 or share < 0.15)
            ink = "white" if on_dark else INK if cell else MUTED
            axes.annotate(text, xy=(column, row), ha="center", va="center", fontsize=9, color=ink)
    axes.set_xlim(-0.5, len(found.lengths) - 0.5)
    axes.set_ylim(len(found.depths) - 0.5, -0.5)
    axes.set_xticks(range(len(found.lengths)), [format_length(length) for length in found.lengths])
    axes.set_yticks(range(len(found.depths)), found.depths)
    axes.tick_params(length=0, labelcolor=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _tile(corner: tuple[float, float], color: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", linewidth=1.5)
