"""The results page of an evaluation: one HTML file that needs nothing else, its figures as PNG, and Markdown.

In: records and what the run was (``About``). Out: ``report.html`` and ``figures/*.png`` in a folder, each written
whole or not at all, or Markdown text. The same records give the same bytes. Everything that comes from a model, a file
name or a command is escaped.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from longrope_vllm.atomic import write_atomically
from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.report.figure_style import styles
from longrope_vllm.evaluation.report.sections import Section, sections
from longrope_vllm.evaluation.report.summary import Summary, summarize
from longrope_vllm.evaluation.report.tables import Cell, Table
from longrope_vllm.evaluation.report.wording import UNFINISHED
from longrope_vllm.extras import require
from longrope_vllm.lengths import format_length

PAGE = "report.html"
_TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text that perplexity was measured on."""

    name: str
    kind: str
    tokens: int
    sha256: str


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
    summary = summarize(records, planned=about.planned)
    found = sections(summary, trained_window=about.trained_window or 0)
    (folder / "figures").mkdir(exist_ok=True)
    figures = {drawing.name: drawing.draw() for section in found for drawing in section.drawings}
    for name, content in figures.items():
        write_atomically(folder / "figures" / f"{name}.png", content)
    page = folder / PAGE
    write_atomically(page, _encodable(_html(summary, found, figures, about)))
    return page


def markdown(records: Iterable[Record], about: About) -> str:
    """The findings, the tables and how they were measured as Markdown."""
    summary = summarize(records, planned=about.planned)
    found = sections(summary, trained_window=about.trained_window or 0)
    parts = [f"# {_escaped(about.title)}", _escaped(headline(summary, about))]
    if summary.samples < about.planned:
        parts.append(f"**Not finished.** {_escaped(UNFINISHED)}")
    parts.append("\n".join(f"- **{section.title}.** {_escaped(section.finding)}" for section in found))
    for section in found:
        parts += [f"## {section.title}", _escaped(section.measured)]
        for table in section.tables:
            parts += [f"**{_escaped(table.caption)}**", _markdown_table(table)]
    parts += ["## How it was measured", *_markdown_facts(about)]
    return _encodable("\n\n".join(part for part in parts if part)) + "\n"


def headline(summary: Summary, about: About) -> str:
    """Which model, and how much of the run is there."""
    done = f"{summary.samples:,} of {about.planned:,} planned samples"
    window = f", trained window {format_length(about.trained_window)}" if about.trained_window else ""
    return f"{about.model}{window}; {done}."


def _html(summary: Summary, found: tuple[Section, ...], figures: Mapping[str, bytes], about: About) -> str:
    jinja2 = require("jinja2", "eval")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return str(
        environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
            about=about,
            headline=headline(summary, about),
            unfinished=UNFINISHED if summary.samples < about.planned else "",
            sections=found,
            colors={method: style.color for method, style in styles(summary.methods).items()},
            images={name: base64.b64encode(content).decode() for name, content in figures.items()},
        )
    )


def _markdown_table(table: Table) -> str:
    aligned = "---|" if table.is_prose else "---:|"
    lines = [
        "| " + " | ".join(map(_escaped, table.header)) + " |",
        "|---|" + aligned * (len(table.header) - 1),
        *("| " + " | ".join([_escaped(row.label), *map(_markdown_cell, row.cells)]) + " |" for row in table.rows),
    ]
    return "\n".join(lines)


def _markdown_cell(cell: Cell) -> str:
    text = _escaped(cell.text) + (r"\*" if cell.partial else "")
    text = f"**{text}**" if cell.best else text
    return f"{text} ({cell.interval})" if cell.interval else text


def _markdown_facts(about: About) -> list[str]:
    facts = [f"- {_escaped(name)}: {_escaped(value)}" for name, value in about.settings]
    facts.append("- versions: " + ", ".join(f"{_escaped(name)} {_escaped(v)}" for name, v in about.versions.items()))
    facts.append(f"- measured: {_escaped(about.created)}")
    commands = "\n".join(about.commands)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", commands)), default=0))
    documents = [
        f"| {_escaped(document.name)} | {_escaped(document.kind)} | {document.tokens:,} | `{document.sha256}` |"
        for document in about.documents
    ]
    table = ["| document | kind | tokens | sha256 |", "|---|---|---:|---|", *documents] if documents else []
    return [f"{fence}\n{commands}\n{fence}", "\n".join(facts), "\n".join(table)]


def _escaped(text: str) -> str:
    """``text`` as Markdown shows it literally, on one line."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_|\[\]#])", r"\\\1", flat).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _encodable(text: str) -> str:
    """``text`` without lone surrogates, which an answer in JSON may hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
