"""The figure of a search's course: the best perplexity until then against token-forwards.

What a search gains is small beside what separates the closed forms, so the axis is as high as three times the gain over
the best of them, or reaches to where the search began when there are none; what lies above it is in the legend, with an
arrow.
"""

from collections.abc import Iterable
from dataclasses import replace

from longrope_search.report.closed_forms import SEARCHED, STYLES
from longrope_search.report.course import Course, Reached
from longrope_search.report.wording import as_figure
from longrope_vllm.evaluation.report.figure_style import Frame, Style, clean, legend, new_figure, png

_UNITS = ((1e12, "trillions"), (1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
_GAINS = 3.0
"""Height of the axis over the gain."""
_LEAST, _MOST = 1.02, 1.5
"""Top of the axis over its best perplexity, at least and at most."""
_LINE = Style(color=STYLES[SEARCHED].color, marker="", dash="-")
_STEPS = Style(color=STYLES[SEARCHED].color, marker="o", dash="")


def draw_course(course: Course, *, subtitle: str) -> bytes:
    """As PNG."""
    low, top = limits(course)
    shown = _labels(course, top)
    frame = Frame(title="Course of the search", subtitle=subtitle, styles=shown, trained_window=0)
    figure = new_figure(frame, width=10, height=5.0)
    axes = figure.add_subplot()
    unit, unit_name = next(((unit, name) for unit, name in _UNITS if course.token_forwards >= unit), (1, ""))
    for name, perplexity in course.closed_forms.items():
        axes.axhline(perplexity, color=STYLES[name].color, linestyle="--", linewidth=1.5, zorder=2)
    spent, reached = _coordinates(course.steps, unit)
    axes.plot(
        spent, reached, color=_STEPS.color, marker=_STEPS.marker, markersize=4, linestyle="", alpha=0.35, zorder=3
    )
    end = Reached(token_forwards=course.token_forwards, perplexity=course.best[-1].perplexity)
    spent, reached = _coordinates((*course.best, end), unit)
    axes.step(spent, reached, where="post", color=_LINE.color, linewidth=2.2, zorder=4)
    axes.set_xlim(0, course.token_forwards / unit * 1.01)
    axes.set_ylim(low, top)
    axes.ticklabel_format(useOffset=False)
    axes.set_xlabel(f"token-forwards ({unit_name})" if unit_name else "token-forwards")
    axes.set_ylabel("perplexity on the documents of the search")
    clean(axes)
    legend(figure, frame, shown)
    return png(figure)


def limits(course: Course) -> tuple[float, float]:
    """Ends of the axis of perplexity."""
    best = course.best[-1].perplexity
    usual = [step.perplexity for step in course.steps if step.perplexity <= _MOST * best]
    form = min(course.closed_forms.values(), default=None)
    begun = course.best[0].perplexity if form is None else best + _GAINS * (form - best)
    top = max([begun, *usual])
    top = min(max(top, _LEAST * best), _MOST * best)
    low = min([best, *usual])
    margin = 0.06 * (top - low)
    return low - margin, top + margin


def _labels(course: Course, top: float) -> dict[str, Style]:
    """Everything drawn, named with its value, to how it looks."""
    shown = {f"best so far: {as_figure(course.best[-1].perplexity)}": _LINE}
    if course.steps:
        shown["steps of gradient descent, moving mean"] = _STEPS
    for name, perplexity in course.closed_forms.items():
        above = " ↑" if perplexity > top else ""
        shown[f"{name}: {as_figure(perplexity)}{above}"] = replace(STYLES[name], marker="", dash="--")
    return shown


def _coordinates(reached: Iterable[Reached], unit: float) -> tuple[list[float], list[float]]:
    found = list(reached)
    return [one.token_forwards / unit for one in found], [one.perplexity for one in found]
