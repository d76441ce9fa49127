"""Draw rope factors against the closed-form baselines: as text for a terminal, as a PNG for a page.

In: a geometry, the tiers in force and the scale at which the baselines are drawn. Out: text, or PNG bytes. Factors are
on a logarithmic axis, rotary pairs (fastest first) on a linear one; the critical pair of LongRoPE2 (arXiv 2502.20082,
section 3.1) is marked. matplotlib draws on its Agg canvas, without a display and without global state.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from longrope_vllm.factors import Tier
from longrope_vllm.geometry import Geometry
from longrope_vllm.lengths import format_length
from longrope_vllm.rope import BASELINES, critical_pair, inverse_frequencies, wavelengths

COMPARED = {"pi": "PI", "ntk": "NTK-aware", "yarn": "YaRN"}
"""Baselines drawn beside the tiers: key of ``BASELINES`` to its label."""

_BASELINE_COLORS = {"PI": "#c44e52", "NTK-aware": "#dd8452", "YaRN": "#55a868"}
_TIER_COLORS = ("#9db3d8", "#6c8ec4", "#3a66ad", "#16376f")  # the longest tier takes the darkest
_TEXT_MARKERS = {"PI": "-", "NTK-aware": "~", "YaRN": "+"}
_TEXT_TIER_MARKERS = ("o", "x", "*", "braille")
_TEXT_SAMPLES = {"braille": "⠤⠤"}  # what a marker looks like in a line


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of the figure: a factor for each rotary pair."""

    label: str
    factors: tuple[float, ...]
    is_tier: bool
    color: str = ""
    """Of its line in a PNG, where other figures beside it have given it one."""


@dataclass(frozen=True, kw_only=True)
class FactorPlot:
    """What is drawn, independent of how."""

    title: str
    subtitle: str
    curves: tuple[Curve, ...]
    critical: int | None
    """First pair whose period exceeds the trained window; None when every period fits."""
    trained_window: int
    periods: tuple[float, ...]
    """Tokens in one turn of each pair under the plain rope."""


def factor_plot(name: str, geometry: Geometry, tiers: Sequence[Tier], *, target: int) -> FactorPlot:
    """Every tier that is not plain, and PI, NTK-aware and YaRN at the scale that reaches ``target`` tokens."""
    scale = target / geometry.trained_window
    critical = critical_pair(geometry.rotary_dim, geometry.base, geometry.trained_window)
    baselines = [
        Curve(label=label, factors=tuple(BASELINES[key](geometry, scale).factors.tolist()), is_tier=False)
        for key, label in COMPARED.items()
        if scale > 1.0
    ]
    own = [
        Curve(label=f"tier up to {format_length(tier.max_length)}", factors=tier.factors, is_tier=True)
        for tier in tiers
        if any(factor != 1.0 for factor in tier.factors)
    ]
    compared = f"; baselines at {format_length(target)} tokens (scale {scale:g})" if baselines else ""
    return FactorPlot(
        title=f"Rope factors of {name}",
        subtitle=f"trained window {format_length(geometry.trained_window)}, base {geometry.base:,.0f}{compared}",
        curves=(*baselines, *own),
        critical=critical if critical < geometry.pairs else None,
        trained_window=geometry.trained_window,
        periods=tuple(wavelengths(inverse_frequencies(geometry.rotary_dim, geometry.base)).tolist()),
    )


def draw_text(plot: FactorPlot, *, width: int, height: int = 20) -> str:
    """The figure as text of ``width`` columns, without colour: the curves differ by their characters."""
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    figure.title(plot.title)
    figure.legend(active=False)  # plotext's own legend would cover the curves
    legend = []
    if plot.critical is not None:
        figure.line(plot.critical, "v", style="dotted")
        legend.append(f"┊ critical pair {plot.critical}")
    tier_markers = list(_TEXT_TIER_MARKERS[-_tier_count(plot) :])
    pairs = list(range(len(plot.periods)))
    for curve in plot.curves:
        marker = tier_markers.pop(0) if curve.is_tier and tier_markers else _TEXT_MARKERS.get(curve.label, "o")
        # plotext's own logarithmic ruler ignores limits and labels, so the logarithm is taken here.
        signal = figure.signal(pairs, [math.log2(factor) for factor in curve.factors], marker=marker)
        signal.lines()
        figure.draw(signal)
        legend.append(f"{_TEXT_SAMPLES.get(marker, marker)} {curve.label}")
    ticks = factor_ticks(plot.curves)
    figure.ruler("y").ticks([math.log2(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    marked = _pair_ticks(len(pairs))
    figure.ruler("x").ticks(marked, [str(pair) for pair in marked])
    figure.label("rotary pair", "x")
    figure.label("factor", "y")
    return str(figure.build().string(colorless=True)).rstrip() + "\n" + "   ".join(reversed(legend))


def draw_png(plot: FactorPlot) -> bytes:
    """The figure as a PNG of 1,600 by 960 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    tier_colors = list(_TIER_COLORS[-_tier_count(plot) :])
    pairs = range(len(plot.periods))
    for curve in plot.curves:
        if curve.is_tier:
            color = curve.color or (tier_colors.pop(0) if tier_colors else _TIER_COLORS[-1])
            style: dict[str, Any] = {"linewidth": 3.2, "marker": "o", "markersize": 4.5, "zorder": 3}
        else:
            color = curve.color or _BASELINE_COLORS[curve.label]
            style = {"linewidth": 1.6, "linestyle": "--", "zorder": 4}
        axes.plot(pairs, curve.factors, label=curve.label, color=color, **style)
    _mark_critical(axes, plot)
    _label_axes(axes, plot)
    figure.legend(loc="outside lower center", ncols=len(plot.curves), frameon=False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "longrope-vllm"})
    return buffer.getvalue()


def factor_ticks(curves: Sequence[Curve]) -> list[float]:
    """Round factors that label a logarithmic axis from the smallest to the largest factor drawn."""
    values = [factor for curve in curves for factor in curve.factors]
    low, high = min(1.0, *values), max(values)
    steps = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0) if high / low <= 4 else (1.0, 2.0, 4.0, 8.0)
    decades = [1.0] if high / low <= 4 else [8.0**power for power in range(-2, 6)]
    candidates = sorted({step * decade for decade in decades for step in steps})
    return [tick for tick in candidates if low * 0.999 <= tick <= high * 1.001] or [low, high]


def _mark_critical(axes: Any, plot: FactorPlot) -> None:
    if plot.critical is None:
        return
    side = 1 if plot.critical < 0.72 * len(plot.periods) else -1  # where there is room for the words
    axes.axvspan(plot.critical - 0.5, len(plot.periods) - 0.5, color="#000000", alpha=0.04, linewidth=0)
    axes.axvline(plot.critical - 0.5, color="#333333", linewidth=1.2, linestyle=":")
    axes.annotate(
        f"critical pair {plot.critical}: from here on a turn\n"
        f"takes more than {format_length(plot.trained_window)} tokens",
        xy=(plot.critical - 0.5, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(6 * side, 4),
        ha="left" if side > 0 else "right",
        textcoords="offset points",
        fontsize=9,
        color="#333333",
    )


def _label_axes(axes: Any, plot: FactorPlot) -> None:
    corner: dict[str, Any] = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(plot.title, xytext=(0, 26), fontsize=15, fontweight="bold", **corner)
    axes.annotate(plot.subtitle, xytext=(0, 9), fontsize=10, color="#555555", **corner)
    ticks = factor_ticks(plot.curves)
    axes.set_yscale("log", base=2)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylabel("rescale factor (log scale)")
    marked = _pair_ticks(len(plot.periods))
    axes.set_xticks(marked, [f"{pair}\n{_short_number(plot.periods[pair])}" for pair in marked])
    axes.set_xlabel("rotary pair, and below it the tokens in one turn of the plain rope")
    axes.set_xlim(-0.5, len(plot.periods) - 0.5)
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _tier_count(plot: FactorPlot) -> int:
    return max(1, sum(curve.is_tier for curve in plot.curves))


def _pair_ticks(pairs: int) -> list[int]:
    step = max(1, pairs // 8)
    ticks = list(range(0, pairs - step // 2, step))
    return ticks if ticks[-1] == pairs - 1 else [*ticks, pairs - 1]


def _short_number(value: float) -> str:
    """Three digits at most: 6.3, 412, 9.3k, 1.2M."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
