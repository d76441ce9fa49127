"""The tables of one length: closed forms, finalists or the best so far, and cost."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from longrope_search.candidate import Candidate
from longrope_search.methods.seeds import seeds
from longrope_search.report.gain import held_out_perplexity, last_perplexity, times
from longrope_search.report.wording import as_amount, as_factor, as_figure
from longrope_search.result import Found, Row
from longrope_search.stage import Stage
from longrope_vllm.evaluation.perplexity import LAST
from longrope_vllm.evaluation.report import tables
from longrope_vllm.evaluation.report.confidence import Estimate
from longrope_vllm.evaluation.report.tables import Cell, Table
from longrope_vllm.evaluation.report.wording import MISSING, as_range, count


def against_closed_forms(found: Found) -> Table:
    """The best finalist and each closed form on the held-out documents."""
    rows = [found.best, *found.baselines]
    winner = min(rows, key=lambda row: row.loss)
    columns = {
        "perplexity": [_estimate(held_out_perplexity(row), best=row is winner) for row in rows],
        "times the best": [Cell(text="1") if row is winner else _estimate(times(row, winner)) for row in rows],
        **_last_tokens(rows),
        "attention factor": [Cell(text=as_factor(row.candidate.attention_factor)) for row in rows],
    }
    return Table(
        caption=f"On {count(len(found.held_out), 'held-out document')}",
        header=("factors", *columns),
        rows=tuple(
            tables.Row(label=row.label, cells=tuple(column[place] for column in columns.values()))
            for place, row in enumerate(rows)
        ),
    )


def finalists(found: Found) -> Table:
    """The best of the search, in its order, with what held-out documents say."""
    rows = []
    for place, row in enumerate(found.finalists, 1):
        own = _searched(row.candidate, found.search_losses[row.candidate], place)
        again = Cell(text=as_figure(held_out_perplexity(row).value), best=row is found.best)
        rows.append(replace(own, cells=(*own.cells, again)))
    return Table(
        caption="Finalists, in the order of the search", header=(*_SEARCHED, "perplexity, held out"), rows=tuple(rows)
    )


def best_so_far(found: Found, stage: Stage) -> Table:
    """As many as there will be finalists; of the same factors with several numbers of start tokens each."""
    ranked = sorted(found.search_losses.items(), key=lambda scored: scored[1])
    best = islice(ranked, stage.finalists)
    return Table(
        caption="Best so far",
        header=_SEARCHED,
        rows=tuple(_searched(candidate, loss, place) for place, (candidate, loss) in enumerate(best, 1)),
    )


def cost(found: Found, stage: Stage) -> Table:
    """What the search spent, and what the documents at the end did."""
    most = stage.planned(len(seeds(stage.space, stage.geometry)) + 1)  # one more from a shorter or a fine-tuned tier
    again = {row.candidate for row in (*found.finalists, *found.baselines)}
    at_end = len(again) * sum(len(passage.tokens) for passage in found.held_out)
    rows = (
        ("evaluations", f"{found.evaluations:,}"),
        ("candidates scored on all documents of the search", f"{len(found.search_losses):,}"),
        ("token-forwards of the search", as_amount(found.token_forwards)),
        ("token-forwards on held-out documents", as_amount(at_end) if again else MISSING),
        ("token-forwards planned, at most", as_amount(most)),
    )
    return Table(
        caption="Cost",
        header=("what", "how much"),
        rows=tuple(tables.Row(label=name, cells=(Cell(text=value),)) for name, value in rows),
    )


_SEARCHED = ("place", "loss (nats)", "perplexity", "start tokens", "attention factor", "made by")


def _searched(candidate: Candidate, loss: float, place: int) -> tables.Row:
    """Under ``_SEARCHED``: a candidate on the documents of the search."""
    stated: Sequence[str] = (
        f"{loss:.4f}",
        as_figure(math.exp(loss)),
        f"{candidate.start_tokens:,}",
        as_factor(candidate.attention_factor),
        candidate.origin or MISSING,
    )
    return tables.Row(label=str(place), cells=tuple(Cell(text=text) for text in stated))


def _last_tokens(rows: Sequence[Row]) -> dict[str, list[Cell]]:
    """A column, where every token of the documents counts."""
    known = [estimate for row in rows if (estimate := last_perplexity(row)) is not None]
    if len(known) < len(rows):
        return {}
    lowest = min(estimate.value for estimate in known)
    return {f"last {LAST:,} tokens": [_estimate(one, best=one.value == lowest) for one in known]}


def _estimate(estimate: Estimate, *, best: bool = False) -> Cell:
    return Cell(text=as_figure(estimate.value), interval=as_range(estimate, as_figure), best=best)
