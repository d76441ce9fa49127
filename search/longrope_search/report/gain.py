"""What a search gained on held-out documents: its best factors against the best closed form, document by document.

Documents weigh alike, as in ``Row.loss``, and are one stratum: a passage does not say which kind of text it is from.
"""

import math
from collections.abc import Sequence

from longrope_search.report.wording import as_amount, as_figure, as_percent
from longrope_search.result import Found, Row
from longrope_search.stage import AS_TUNED
from longrope_vllm.evaluation.report.confidence import DocumentLoss, Estimate, perplexity, perplexity_ratio
from longrope_vllm.evaluation.report.wording import count


def held_out_perplexity(row: Row) -> Estimate:
    """Of all held-out documents."""
    return perplexity(_documents(row.losses))


def last_perplexity(row: Row) -> Estimate | None:
    """Of the last 1,024 tokens of each, where these were measured."""
    return perplexity(_documents(row.last)) if row.last else None


def times(row: Row, other: Row) -> Estimate:
    """Perplexity of ``row`` over that of ``other``, paired by document."""
    return perplexity_ratio(_documents(row.losses), _documents(other.losses))


def verdict(found: Found) -> str:
    """One sentence: whether the search gained anything, how much, and how sure that is."""
    if not found.finalists or not found.baselines:
        return _until_now(found)
    best = found.best_baseline
    ratio = times(found.best, best)
    own, other = (as_figure(held_out_perplexity(row).value) for row in (found.best, best))
    compared = f"perplexity {own} against {other} on {count(ratio.samples, 'held-out document')}"
    return f"{_outcome(ratio, best.label)}: {compared}, {_difference(ratio)}."


def _outcome(ratio: Estimate, label: str) -> str:
    low, high = ratio.interval or (0.0, math.inf)
    form = "the factors in force" if label == AS_TUNED else f"the best closed form, “{label}”"
    if ratio.value >= 1:
        better = f"{form}, {'which are better, were kept' if label == AS_TUNED else 'is better'}"
        kept = ", which were kept" if label == AS_TUNED else ""
        return f"Nothing was gained, and {better}" if low > 1 else f"Nothing was gained over {form}{kept}"
    if high < 1:
        return f"The searched factors beat {form}"
    few = "one document is" if ratio.samples == 1 else f"{ratio.samples} documents are"
    return f"The searched factors are ahead of {form}, but {few} too few to tell the two apart"


def _difference(ratio: Estimate) -> str:
    if ratio.interval is None:
        return f"a difference of {as_percent(ratio.value)}, for which one document gives no interval"
    low, high = map(as_percent, ratio.interval)
    return f"a difference of {as_percent(ratio.value)} (95 % interval {low} to {high}, paired by document)"


def _until_now(found: Found) -> str:
    spent = f"{count(found.evaluations, 'evaluation')} and {as_amount(found.token_forwards)} token-forwards"
    if not found.search_losses:
        return f"The search is running, and nothing has been scored on all of its documents yet ({spent})."
    best = as_figure(math.exp(min(found.search_losses.values())))
    return f"The search is running: the best so far has perplexity {best} on the documents of the search ({spent})."


def _documents(losses: Sequence[float]) -> list[DocumentLoss]:
    return [DocumentLoss(loss=loss, tokens=1.0, group="") for loss in losses]
