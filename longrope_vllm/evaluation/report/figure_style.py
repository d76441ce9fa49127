"""What the figures of an evaluation share: one colour and marker a method, titles, ticks, the mark of the window.

matplotlib draws on its Agg canvas, without a display and without global state; the same input gives the same bytes.
Colours are those of Okabe and Ito and of Paul Tol that stand out on white and from each other for the colour-blind.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from longrope_vllm.lengths import format_length

INK, MUTED, RULE = "#222222", "#555555", "#dddddd"
_COLORS = (
    "#4d4d4d",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#882255",
    "#999933",
    "#332288",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", "h")
_DASHES = ("-", "--", ":")
"""The next one for each ten methods."""
_STEPS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0))
_TITLE_INCHES = 0.75


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a method looks in every figure of a page."""

    color: str
    marker: str
    dash: str


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What is written around a figure."""

    title: str
    subtitle: str
    styles: Mapping[str, Style]
    """Of every method of the page."""
    trained_window: int
    """Tokens, 0 where it is not known; marked where the figure has lengths or positions."""


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A style for each of ``methods``; it depends on the order alone."""
    return {
        method: Style(
            color=_COLORS[place % len(_COLORS)],
            marker=_MARKERS[place % len(_MARKERS)],
            dash=_DASHES[place // len(_COLORS) % len(_DASHES)],
        )
        for place, method in enumerate(methods)
    }


def new_figure(frame: Frame, *, width: float, height: float) -> Any:
    """A figure of ``width`` by ``height`` inches below its title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    total = height + _TITLE_INCHES
    figure: Any = Figure(figsize=(width, total), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(rect=(0, 0, 1, height / total), w_pad=0.08, h_pad=0.08)
    figure.text(0.12 / width, 1 - 0.3 / total, plain(frame.title), fontsize=15, fontweight="bold", color=INK)
    figure.text(0.12 / width, 1 - 0.54 / total, plain(frame.subtitle), fontsize=10, color=MUTED)
    return figure


def png(figure: Any) -> bytes:
    """``figure`` as a PNG of 160 dots an inch."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "longrope-vllm"})
    return buffer.getvalue()


def plain(text: str) -> str:
    """``text`` as matplotlib draws it literally: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def legend(figure: Any, frame: Frame, methods: Iterable[str]) -> None:
    """Line and marker of each of ``methods`` below the figure, in as many columns as fit."""
    from matplotlib.lines import Line2D

    shown = list(methods)
    handles = [
        Line2D([], [], color=style.color, marker=style.marker, linestyle=style.dash, linewidth=2, markersize=6)
        for style in (frame.styles[method] for method in shown)
    ]
    width = sum(len(method) * 0.09 + 0.75 for method in shown)
    columns = math.ceil(len(shown) / math.ceil(width / figure.get_figwidth()))
    labels = [plain(method) for method in shown]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def clean(axes: Any, *, title: str = "") -> None:
    """No box, a light grid behind, ``title`` at the left."""
    axes.grid(True, axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.minorticks_off()
    axes.tick_params(color=MUTED, labelcolor=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if title:
        axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold", color=INK)


def length_axis(axes: Any, lengths: Sequence[int]) -> None:
    """A logarithmic axis with a tick for each of ``lengths``, or for some of many."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(lengths[0] / 1.12, lengths[-1] * 1.12)
    shown: list[int] = []
    room = math.log2(lengths[-1] / lengths[0]) / 11
    for length in reversed(lengths):
        if not shown or math.log2(shown[-1] / length) >= room:
            shown.append(length)
    axes.set_xticks(shown, [format_length(length) for length in shown])
    axes.minorticks_off()


def beside(length: float, place: int, count: int) -> float:
    """``length`` moved a little, so that the intervals of ``count`` methods stand side by side."""
    return float(length * 2 ** (0.022 * (place - (count - 1) / 2)))


def mark_window(axes: Any, position: float) -> None:
    """A dotted line at the trained window, where it lies inside the axis."""
    low, high = axes.get_xlim()
    if low < position < high:
        axes.axvline(position, color="#333333", linewidth=1.2, linestyle=":", zorder=1)


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high`` for a logarithmic axis: at least four where there are that many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in _STEPS:
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 4:
            break
    return ticks


def short_number(value: float) -> str:
    """A perplexity or a ratio as it stands in a figure or table: 9.73, 119, 1,232, 4.2e+07."""
    if value >= 1e6:
        return "∞" if math.isinf(value) else f"{value:.1e}"
    return f"{value:.2f}" if value < 99.995 else f"{value:,.0f}"
