"""The words and numbers of a results page: findings as sentences, what each task measures, figures as text."""

from collections.abc import Callable, Sequence

from longrope_vllm.evaluation.report.comparison import Verdict
from longrope_vllm.evaluation.report.confidence import Estimate
from longrope_vllm.evaluation.report.figure_style import short_number
from longrope_vllm.evaluation.report.short_scores import ShortScores
from longrope_vllm.lengths import format_length

MISSING = "–"
"""What stands in a cell that was not measured."""

UNFINISHED = "An en dash stands for what has not been measured, * for fewer samples than another method has."

NOTES = (
    "All intervals hold with 95 % confidence, each on its own: they are not widened for the number of methods. The "
    "best in a column or row is bold. A cell marked * has fewer samples than another method's."
)

KEYLESS = "No document has a token that needs its long context, so there is nothing to compare."

TITLES = {"passkey": "Passkey", "needle": "Needle in a haystack", "ruler": "RULER"}

_WILSON = (
    "Intervals are Wilson's for answers that are right or wrong, and Student's t for answers that are right in part; "
    "two methods are compared on the same questions, with Newcombe's interval for paired answers."
)
MEASURED = {
    "ppl": (
        "Perplexity is exp of the mean loss of all tokens that the protocol counts; lower is better. Intervals "
        "are symmetric in log space, with documents as clusters (Student's t) and kinds of text as strata; a single "
        "document has none. Two methods are compared by the ratio of their perplexities on the same documents."
    ),
    "longppl": (
        "LongPPL is the perplexity of the tokens that need the long context to be predicted (arXiv 2410.23771); lower "
        "is better. Intervals as for perplexity. A document without such a token counts nowhere."
    ),
    "passkey": "A number hidden in filler is asked for at the end; the score is the share of right answers. " + _WILSON,
    "needle": (
        "A sentence hidden in real text is asked for at the end; the score is the share of its facts in the answer. "
        + _WILSON
    ),
    "ruler": (
        "The tasks of RULER (arXiv 2404.06654); the score is the share of expected strings in the answer, and the "
        "average weights tasks alike. Its interval is Wilson's on all questions, which is never too narrow. " + _WILSON
    ),
    "short": (
        "Short questions, to see what an extension costs where none is needed. Scores have Wilson's or Student's t "
        "intervals; the share that is left is the ratio of two mean scores on the same questions, with Fieller's "
        "interval, and has none where no answer differs."
    ),
}


def finding(verdict: Verdict) -> str:
    """Best method, its figure, and from which others its paired interval tells it."""
    value, is_ratio = verdict.value, verdict.measure == "perplexity"
    text, samples = (as_perplexity, "documents") if is_ratio else (as_percent, "questions")
    figure = f"the lowest perplexity, {text(value.value)}" if is_ratio else f"the highest score, {text(value.value)} %"
    sure = f"95 % interval {as_range(value, text)}" if value.interval else "too few samples for an interval"
    first = f"At {format_length(verdict.length)} tokens {quoted([verdict.best])} has {figure} ({sure})"
    beaten = [other.method for other in verdict.others if other.apart and not other.ahead]
    near = [other.method for other in verdict.others if not other.apart]
    ahead = [other.method for other in verdict.others if other.apart and other.ahead]
    if not verdict.others:
        return f"{first}; no other method has been measured there."
    parts = [f"it beats {quoted(beaten)} beyond the 95 % interval"] if beaten else []
    parts += [f"it cannot be told from {quoted(near)}"] if near else []
    parts += [f"it is behind {quoted(ahead)}, of which samples are missing"] if ahead else []
    return f"{first}; on the same {samples} {', but '.join(parts)}."


def retained(short: ShortScores) -> str:
    """What each method kept of the baseline's scores, from the worst benchmark to the best."""
    parts = []
    for method in short.retention.methods:
        kept = [cell.value for place, cell in short.retention.cells.items() if place.method == method]
        if kept:
            low, high = f"{100 * min(kept):.1f}", f"{100 * max(kept):.1f}"
            parts.append(f"{quoted([method])} keeps {low if low == high else f'{low} to {high}'} %")
    if not parts:
        return f"Only {quoted([short.baseline])} has been measured on short benchmarks."
    return f"On short benchmarks, {'; '.join(parts)} of the score of {quoted([short.baseline])}."


def as_perplexity(value: float) -> str:
    """A perplexity or a ratio of two."""
    return short_number(value)


def as_percent(value: float) -> str:
    """A share in percent, without the sign."""
    return f"{100 * value:.1f}"


def as_points(value: float) -> str:
    """A difference of two shares in percent, with its sign."""
    return "0.0" if abs(value) < 0.0005 else f"{100 * value:+.1f}".replace("-", "−")


def as_range(estimate: Estimate, text: Callable[[float], str]) -> str:
    """The interval, empty where there is none."""
    return " to ".join(map(text, estimate.interval)) if estimate.interval else ""


def count(number: int, noun: str) -> str:
    """``1 document``, ``1,200 documents``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def quoted(names: Sequence[str]) -> str:
    """``“a”``, ``“a” and “b”``, ``“a”, “b” and “c”``; a method may be called none, so names have quotes."""
    marked = [f"“{name}”" for name in names]
    return marked[0] if len(marked) == 1 else f"{', '.join(marked[:-1])} and {marked[-1]}"
