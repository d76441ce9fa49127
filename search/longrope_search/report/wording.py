"""Numbers of a search as they stand in sentences and tables."""

import math

from longrope_vllm.evaluation.report.figure_style import short_number

_UNITS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def as_figure(value: float) -> str:
    """A perplexity, or a ratio of two, with four digits: a search is about the third and the fourth."""
    return f"{value:#.4g}" if 0.1 <= value < 999.95 else short_number(value)


def as_percent(ratio: float) -> str:
    """How far ``ratio`` is from 1, signed: −3.7 %, +0.04 %."""
    off = 100 * (ratio - 1)
    size = abs(off)
    text = short_number(size) if size >= 999.5 else f"{size:.1f}" if size >= 1 else f"{size:.2f}"
    sign = "" if text == "0.00" else "−" if off < 0 else "+"
    return f"{sign}{text} %"


def as_amount(number: int) -> str:
    """Tokens in words: 1.25 billion, 68.2 million, 81,920."""
    for unit, name in _UNITS:
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,}"


def as_factor(value: float) -> str:
    """An attention factor or a scale: 1, 1.194."""
    return f"{round(value, 4):g}" if math.isfinite(value) else short_number(value)
