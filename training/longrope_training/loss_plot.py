"""The course of a run as a picture: loss by step, long and short rows apart, stages marked."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np

from longrope_vllm.lengths import format_length

_COLORS = {"long": "#16376f", "short": "#dd8452"}
_SMOOTHED = 20  # steps at most over which the line is averaged


def loss_png(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of ``metrics``, the lines of ``metrics.jsonl``; at least one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for kind, color in _COLORS.items():
        found = [(entry["step"], entry[f"loss_{kind}"]) for entry in metrics if f"loss_{kind}" in entry]
        if not found:
            continue
        steps, losses = (np.array(values) for values in zip(*found, strict=True))
        axes.plot(steps, losses, color=color, alpha=0.25, linewidth=1)
        axes.plot(steps, _smooth(losses), color=color, linewidth=2, label=f"{kind} rows")
    for before, entry in pairwise(metrics):
        if entry["stage"] != before["stage"]:
            axes.axvline(before["step"] + 0.5, color="#888888", linestyle=":", linewidth=1)
    lengths = dict.fromkeys(format_length(entry["length"]) for entry in metrics)
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=f"rows of {' then '.join(lengths)} tokens")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _smooth(losses: Any) -> Any:
    """The mean of each point and those before it, a tenth of all at most."""
    span = max(1, min(_SMOOTHED, len(losses) // 10))
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    begin = np.maximum(0, np.arange(1, len(losses) + 1) - span)
    return (sums[1:] - sums[begin]) / (np.arange(1, len(losses) + 1) - begin)
