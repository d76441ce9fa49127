"""The page of a search, finished or not: one HTML file that needs nothing else, and the same tables as Markdown.

In: the plan and what was found so far. Out: a page with a section for each length. The same findings give the same
bytes on the same machine.
"""

from collections.abc import Sequence
from pathlib import Path

from longrope_search.plan import Plan
from longrope_search.report.closed_forms import STYLES
from longrope_search.report.facts import documents, facts
from longrope_search.report.section import section
from longrope_search.result import Found
from longrope_search.scoring.storage import without_password
from longrope_vllm.atomic import write_atomically
from longrope_vllm.evaluation.report import rendering
from longrope_vllm.evaluation.report.rendering import Page
from longrope_vllm.lengths import format_length

_NOTES = (
    "Perplexity is exp of the mean loss; held-out documents weigh alike. Closed forms are on held-out documents with "
    "their own attention factors; in the course of the search they are with its attention factor. Intervals hold with "
    "95 % confidence, each on its own (Student's t over documents, in log space); differences are paired by document. "
    "The best finalist was chosen by the held-out documents that it is compared on, which flatters it, as it flatters "
    "the best closed form. Token-forwards are tokens that went through the model, a backward pass counted as three "
    "forward ones."
)
_NEEDLE = (
    " The loss is that of the answer alone: a number hidden at the beginning of a document and asked for at its end."
)


def write_report(path: Path, plan: Plan, found: Sequence[Found], *, command: str) -> None:
    """Write the page whole or not at all. Raises ``OSError``."""
    page = _page(plan, found, command)
    figures = {drawing.name: drawing.draw() for section in page.sections for drawing in section.drawings}
    write_atomically(path, rendering.html(page, figures))


def markdown(plan: Plan, found: Sequence[Found], *, command: str) -> str:
    """The verdicts, the tables and how they were measured."""
    return rendering.markdown(_page(plan, found, command))


def _page(plan: Plan, found: Sequence[Found], command: str) -> Page:
    stages = {stage.space.length: stage for stage in plan.stages}
    return Page(
        title=f"Searched rope factors of {plan.model}",
        headline=_headline(plan),
        unfinished=_unfinished(plan, found),
        sections=tuple(section(one, stages[one.length]) for one in found),
        colors={label: style.color for label, style in STYLES.items()},
        notes=_NOTES + (_NEEDLE if plan.request.objective == "needle" else ""),
        commands=(without_password(command),),
        facts=facts(plan),
        documents=documents(plan),
    )


def _headline(plan: Plan) -> str:
    request = plan.request
    lengths = " and ".join(format_length(length) for length in request.lengths)
    return (
        f"{plan.model}, trained window {format_length(plan.footing.geometry.trained_window)}; factors for {lengths} "
        f"tokens by {request.method}, objective {request.objective}, space {request.space}."
    )


def _unfinished(plan: Plan, found: Sequence[Found]) -> str:
    """What is still to come; empty when nothing is."""
    there = {one.length: one for one in found}
    running = [length for length, one in there.items() if not one.finalists]
    waiting = [length for length in plan.request.lengths if length not in there]
    if not running and not waiting:
        return ""
    parts = [f"the search for {format_length(length)} tokens is running" for length in running]
    parts += [f"that for {format_length(length)} tokens has not begun" for length in waiting]
    sentence = ", ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}. This page shows what had been measured when it was written."
