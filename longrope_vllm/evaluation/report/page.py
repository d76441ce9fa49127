"""The results page of an evaluation: one HTML file that needs nothing else, its figures as PNG, and Markdown.

In: records and what the run was (``About``). Out: ``report.html`` and ``figures/*.png`` in a folder, each written
whole or not at all, or Markdown text. The same records give the same bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from longrope_vllm.atomic import write_atomically
from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.report import rendering
from longrope_vllm.evaluation.report.figure_style import styles
from longrope_vllm.evaluation.report.rendering import Document, Page
from longrope_vllm.evaluation.report.sections import sections
from longrope_vllm.evaluation.report.summary import Summary, summarize
from longrope_vllm.evaluation.report.wording import NOTES, UNFINISHED
from longrope_vllm.lengths import format_length

PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class About:
    """What was run, for the head of the page and its section on how it was measured."""

    title: str
    model: str
    trained_window: int | None
    """Tokens; None where it is not known."""
    commands: tuple[str, ...]
    versions: Mapping[str, str]
    documents: tuple[Document, ...]
    settings: tuple[tuple[str, str], ...]
    """Rows of name and value."""
    created: str
    """When, as it is to be read."""
    planned: int
    """Records that a finished run has."""


def write_report(folder: Path, records: Iterable[Record], about: About) -> Path:
    """Write the page and its figures into ``folder``, which exists; its path. Raises ``OSError``."""
    page = _page(records, about)
    (folder / "figures").mkdir(exist_ok=True)
    figures = {drawing.name: drawing.draw() for section in page.sections for drawing in section.drawings}
    for name, content in figures.items():
        write_atomically(folder / "figures" / f"{name}.png", content)
    path = folder / PAGE
    write_atomically(path, rendering.html(page, figures))
    return path


def markdown(records: Iterable[Record], about: About) -> str:
    """The findings, the tables and how they were measured as Markdown."""
    return rendering.markdown(_page(records, about))


def headline(summary: Summary, about: About) -> str:
    """Which model, and how much of the run is there."""
    done = f"{summary.samples:,} of {about.planned:,} planned samples"
    window = f", trained window {format_length(about.trained_window)}" if about.trained_window else ""
    return f"{about.model}{window}; {done}."


def _page(records: Iterable[Record], about: About) -> Page:
    summary = summarize(records, planned=about.planned)
    versions = ", ".join(f"{name} {version}" for name, version in about.versions.items())
    return Page(
        title=about.title,
        headline=headline(summary, about),
        unfinished=UNFINISHED if summary.samples < about.planned else "",
        sections=sections(summary, trained_window=about.trained_window or 0),
        colors={method: style.color for method, style in styles(summary.methods).items()},
        notes=NOTES,
        commands=about.commands,
        facts=(("model", about.model), *about.settings, ("versions", versions), ("measured", about.created)),
        documents=about.documents,
    )
