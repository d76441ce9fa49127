"""The two forms of a results page: one HTML file that needs nothing else, and Markdown with the same tables.

In: a ``Page`` of plain text, and for HTML its figures. Out: text without lone surrogates. Everything that comes from a
model, a file name or a command is escaped here and nowhere else.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from longrope_vllm.evaluation.report.sections import Section
from longrope_vllm.evaluation.report.tables import Cell, Table
from longrope_vllm.extras import require

_TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text that losses were measured on."""

    name: str
    kind: str
    tokens: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page says, as plain text."""

    title: str
    headline: str
    """What it is about, in one line."""
    unfinished: str
    """What a reader must know of a run that has not ended; empty for one that has."""
    sections: tuple[Section, ...]
    colors: Mapping[str, str]
    """Of the rows of tables that have a line in the figures."""
    notes: str
    """How all of its tables are to be read."""
    commands: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    """How it was measured: name and value."""
    documents: tuple[Document, ...]


def html(page: Page, figures: Mapping[str, bytes]) -> str:
    """``page`` with its ``figures``, PNG by the name of their drawing, inside."""
    jinja2 = require("jinja2", "eval")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    images = {name: base64.b64encode(content).decode() for name, content in figures.items()}
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return _encodable(str(template.render(page=page, images=images)))


def markdown(page: Page) -> str:
    """``page`` without its figures."""
    parts = [f"# {_escaped(page.title)}", _escaped(page.headline)]
    if page.unfinished:
        parts.append(f"**Not finished.** {_escaped(page.unfinished)}")
    parts.append(
        "\n".join(f"- **{_escaped(section.title)}.** {_escaped(section.finding)}" for section in page.sections)
    )
    for section in page.sections:
        parts += [f"## {_escaped(section.title)}", _escaped(section.measured)]
        for table in section.tables:
            parts += [f"**{_escaped(table.caption)}**", _markdown_table(table)]
    parts += ["## How it was measured", _escaped(page.notes), *_markdown_facts(page)]
    return _encodable("\n\n".join(part for part in parts if part)) + "\n"


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


def _markdown_facts(page: Page) -> list[str]:
    facts = [f"- {_escaped(name)}: {_escaped(value)}" for name, value in page.facts]
    commands = "\n".join(page.commands)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", commands)), default=0))
    documents = [
        f"| {_escaped(document.name)} | {_escaped(document.kind)} | {document.tokens:,} | `{document.sha256}` |"
        for document in page.documents
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
