"""Figures of perplexity against length and of loss by position, as PNG.

A method that explodes past its window must not flatten the others: the axis ends at a multiple of the best method, and
what lies beyond is an arrow at the edge with its value.
"""

import math
from collections.abc import Sequence
from typing import Any

from longrope_vllm.evaluation.report.figure_style import (
    INK,
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
    round_ticks,
    short_number,
)
from longrope_vllm.evaluation.report.grid import ALL, Grid
from longrope_vllm.evaluation.report.summary import LossCurve
from longrope_vllm.lengths import format_length

_MOST_TIMES_BEST = 6.0
"""A perplexity above this many times the worst of the best ones has exploded, and leaves the axis."""
_HIGHEST = 1e12
"""Stands for infinity, which has no place on an axis."""
_MOST_RANGES = 4.5
"""A curve has exploded when it rises this many times further above the lowest loss than the worst of the best ones."""


def draw_perplexity(table: Grid, frame: Frame) -> bytes:
    """Perplexity against length, both logarithmic; a panel for all groups and one for each."""
    panels = table.panels
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3)
    rows = math.ceil(len(panels) / columns)
    single = len(panels) == 1
    figure = new_figure(frame, width=10 if columns < 3 else 13, height=5.4 if single else 3.6 * rows + 0.4)
    for place, group in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        _draw_group(axes, table, group, frame)
        title = "" if single else "all texts" if group == ALL else group
        clean(axes, title=title)
        mark_window(axes, frame.trained_window)
        if place % columns == 0:
            axes.set_ylabel("perplexity (log scale)")
        if place >= len(panels) - columns:
            axes.set_xlabel("tokens (log scale)")
    legend(figure, frame, table.methods)
    return png(figure)


def draw_loss_by_position(curves: Sequence[LossCurve], frame: Frame) -> bytes:
    """Mean loss along the documents of the longest length; the window is marked."""
    figure = new_figure(frame, width=10, height=5.2)
    axes = figure.add_subplot()
    best = [min(losses) for losses in zip(*(curve.losses for curve in curves), strict=False)]
    floor = min(best)
    spread = max(max(best) - floor, 0.25)
    peaks = [max(curve.losses) for curve in curves]
    exploded = floor + _MOST_RANGES * spread
    room = floor + 1.5 * spread if max(peaks) > exploded else floor  # for the arrows
    cap = max([peak for peak in peaks if peak <= exploded] + [room])
    margin = 0.05 * (cap - floor) + 0.02
    axes.set_ylim(floor - margin, cap + margin)
    leaving = 0
    for curve in curves:
        style = frame.styles[curve.method]
        run = curve.length / len(curve.losses)
        middles = [run * (place + 0.5) for place in range(len(curve.losses))]
        dots = {"marker": style.marker, "markersize": 4, "markevery": max(1, len(middles) // 16)}
        axes.plot(middles, curve.losses, color=style.color, linestyle=style.dash, linewidth=1.8, **dots)
        if max(curve.losses) > exploded:
            crossing = next(middle for middle, loss in zip(middles, curve.losses, strict=True) if loss > cap)
            _arrow(axes, crossing, f"{plain(curve.method)} up to {max(curve.losses):.1f}", leaving, style.color)
            leaving += 1
    length = max(curve.length for curve in curves)
    axes.set_xlim(0, length)
    ticks = [length * eighth // 8 for eighth in range(9)]
    axes.set_xticks(ticks, [format_length(tick) if tick else "0" for tick in ticks])
    axes.set_xlabel("position in the document (tokens)")
    axes.set_ylabel("mean loss (nats a token)")
    clean(axes)
    mark_window(axes, frame.trained_window)
    legend(figure, frame, [curve.method for curve in curves])
    return png(figure)


def _draw_group(axes: Any, table: Grid, group: str, frame: Frame) -> None:
    low, high, exploded = _limits(table, group)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = round_ticks(low, high)
    axes.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
    length_axis(axes, table.lengths)
    leaving: dict[int, int] = {}
    for place, method in enumerate(table.methods):
        style = frame.styles[method]
        found = [(length, cell) for length in table.lengths if (cell := table.at(method, length, group))]
        xs = [beside(length, place, len(table.methods)) for length, _ in found]
        drawn = [min(cell.value, _HIGHEST) for _, cell in found]
        line = {"color": style.color, "linestyle": style.dash, "linewidth": 1.8}
        axes.plot(xs, drawn, marker=style.marker, markersize=5.5, zorder=3, **line)
        last = max((length for length, cell in found if cell.value > exploded), default=None)
        for x, (length, cell) in zip(xs, found, strict=True):
            if length == last:
                _arrow(axes, x, f"{plain(method)} {short_number(cell.value)}", leaving.get(length, 0), style.color)
                leaving[length] = leaving.get(length, 0) + 1
            elif cell.value > exploded:
                _arrow(axes, x, "", 0, style.color)
            elif cell.interval:
                axes.vlines(x, *(min(end, _HIGHEST) for end in cell.interval), color=style.color, alpha=0.55, zorder=2)


def _limits(table: Grid, group: str) -> tuple[float, float, float]:
    """Ends of the axis, and the perplexity above which a point becomes an arrow."""
    by_length: dict[int, list[float]] = {}
    for place, cell in table.cells.items():
        if place.group == group:
            by_length.setdefault(place.length, []).append(min(cell.value, _HIGHEST))
    best = [min(values) for values in by_length.values()]
    usual = max(value for value in best if value <= _MOST_TIMES_BEST * min(best))  # without lengths where all exploded
    exploded = _MOST_TIMES_BEST * usual
    shown = [cell for place, cell in table.cells.items() if place.group == group and cell.value <= exploded]
    values = [cell.value for cell in shown] or [usual]
    ends = [end for cell in shown for end in (cell.interval or ())]
    low = max(min([*values, *ends]), min(values) / 1.5)
    high = min(max([*values, *ends]), max(values) * 1.5)
    if any(value > exploded for own in by_length.values() for value in own):
        high = max(1.15 * high, 2 * usual)  # room for the arrows
    return low / 1.06, high * 1.08, exploded


def _arrow(axes: Any, x: float, label: str, place: int, color: str) -> None:
    """An arrow out of the top of the axis at ``x``, ``label`` below it; ``place`` counts those at the same length."""
    axes.plot([x], [0.975], marker="^", markersize=8, color=color, transform=axes.get_xaxis_transform(), zorder=5)
    if not label:
        return
    right = axes.transAxes.inverted().transform(axes.transData.transform((x, axes.get_ylim()[0])))[0] > 0.8
    axes.annotate(
        label,
        xy=(x, 0.975),
        xycoords=("data", "axes fraction"),
        xytext=(6 if right else -6, -13 - 15 * place),
        textcoords="offset points",
        ha="right" if right else "left",
        va="center",
        fontsize=9,
        color=INK,
        zorder=6,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": RULE, "alpha": 0.85},
    )
