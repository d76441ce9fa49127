"""The section of one length: the verdict, how it was made, the figures that there is something for, and the tables."""

import math
from collections.abc import Sequence

from longrope_search.candidate import Candidate
from longrope_search.report.closed_forms import STYLES, factors_by_pair
from longrope_search.report.course import Course, course
from longrope_search.report.course_figure import draw_course
from longrope_search.report.gain import verdict
from longrope_search.report.tables import against_closed_forms, best_so_far, cost, finalists
from longrope_search.report.wording import as_factor
from longrope_search.result import Found, Row
from longrope_search.stage import Stage
from longrope_vllm.evaluation.report.figure_style import Frame
from longrope_vllm.evaluation.report.perplexity_figures import draw_loss_by_position
from longrope_vllm.evaluation.report.sections import Drawing, Section
from longrope_vllm.evaluation.report.summary import LossCurve
from longrope_vllm.evaluation.report.wording import count
from longrope_vllm.factor_plot import draw_png
from longrope_vllm.lengths import format_length


def section(found: Found, stage: Stage) -> Section:
    """What ``found`` says, finished or not."""
    name = format_length(found.length)
    drawings = [
        *_course(found, stage),
        *_factors(found, stage),
        *_loss_by_position(found, stage),
    ]
    if found.finalists:
        tables = [against_closed_forms(found), finalists(found)]
    else:
        tables = [best_so_far(found, stage)] if found.search_losses else []
    return Section(
        title=f"{name} tokens",
        finding=verdict(found),
        measured=_measured(found, stage),
        drawings=tuple(drawings),
        tables=(*tables, cost(found, stage)),
    )


def _measured(found: Found, stage: Stage) -> str:
    documents = f"{count(len(found.passages), 'document')} for the search, {len(found.held_out)} held out"
    return (
        f"{as_factor(stage.space.scale)} times the {stage.space.footing.max_length:,} tokens that the model knows; "
        f"{documents}, of {found.length:,} tokens each."
    )


def _course(found: Found, stage: Stage) -> list[Drawing]:
    """None before the first candidate was scored on all documents."""
    drawn: Course | None = course(found, stage)
    if drawn is None:
        return []
    subtitle = f"mean of {count(len(found.passages), 'document')} of {format_length(found.length)} tokens"
    if drawn.closed_forms:
        subtitle += "; dashed: closed forms as the search began with them"
    return [
        Drawing(
            name=f"course_{found.length}",
            description="Best perplexity on the documents of the search against token-forwards.",
            draw=lambda: draw_course(drawn, subtitle=subtitle),
        )
    ]


def _factors(found: Found, stage: Stage) -> list[Drawing]:
    best = best_candidate(found)
    if best is None:
        return []
    magnitude, first = as_factor(best.attention_factor), count(best.start_tokens, "start token")
    scale = f"closed forms at scale {as_factor(stage.space.scale)}" if stage.space.scale > 1 else "scale 1"
    plot = factors_by_pair(
        best,
        stage,
        subtitle=f"up to {format_length(found.length)}; searched: attention factor {magnitude}, {first}; {scale}",
    )
    return [
        Drawing(
            name=f"factors_{found.length}",
            description="Rescale factor of each rotary pair: searched against PI, NTK-aware and YaRN.",
            draw=lambda: draw_png(plot),
        )
    ]


def best_candidate(found: Found) -> Candidate | None:
    """The best finalist, or the best of the search while it runs."""
    if found.finalists:
        return found.best.candidate
    losses = found.search_losses
    return min(losses, key=lambda candidate: losses[candidate], default=None)


def _loss_by_position(found: Found, stage: Stage) -> list[Drawing]:
    """Where every token counts: an answer has no curve."""
    rows = [*found.baselines, found.best] if found.finalists else []
    if not rows or not all(row.curves for row in rows):
        return []
    window, length = stage.space.footing.max_length, found.length
    documents = count(len(found.held_out), "held-out document")
    marked = f"; dotted line: the {format_length(window)} tokens that the model knows" if window < length else ""
    frame = Frame(
        title="Loss by position",
        subtitle=f"log of perplexity; mean of {documents}{marked}",
        styles=STYLES,
        trained_window=window,
    )
    curves = [_curve(row, length) for row in rows]
    return [
        Drawing(
            name=f"loss_by_position_{length}",
            description="Mean loss along the held-out documents, searched and under each closed form.",
            draw=lambda: draw_loss_by_position(curves, frame),
        )
    ]


def _curve(row: Row, length: int) -> LossCurve:
    means = tuple(_mean(run) for run in zip(*row.curves, strict=False))
    return LossCurve(method=row.label, losses=means, length=length, documents=len(row.curves))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
