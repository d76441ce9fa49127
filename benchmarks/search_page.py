"""A results page from finished searches of one checkpoint: what each found, on which documents, for how much.

    longrope search MODEL --target 16k --method cma ... --out DIR/cma.json
    longrope eval MODEL --factors cma=DIR/cma.json ... --documents OTHERS --out EVALUATION
    python benchmarks/search_page.py cma=DIR/cma.json ... --evaluation "On other text=EVALUATION" \
        --out benchmarks/results/search_NAME_cpu_DATE.md

In: files of factors that searches wrote, with their studies beside them, all for one length and the same documents; and
folders of ``longrope eval``, whose reports follow under the titles they are given.
Seconds are those of the passes, from the study, on whatever else the machine did.
"""

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from longrope_vllm import read_factors
from longrope_vllm.evaluation.labels import split_label
from report import provenance
from search_course import Course, course, draw_courses

_COLORS = ("#c44e52", "#16376f", "#55a868", "#dd8452")
_SECONDS = re.compile(r'"passage \d+": ?\{"seconds": ?([\d.]+)')


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search that ended."""

    name: str
    command: str
    measured: Mapping[str, Any]
    """Of its only length, as in the file of factors."""
    course: Course
    minutes: float

    @classmethod
    def read(cls, name: str, out: Path) -> "Search":
        """From ``out`` and its study."""
        origin = read_factors(out).origin
        ((_, measured),) = origin.measurements["lengths"].items()
        return cls(
            name=name,
            command=bare_command(origin.command or ""),
            measured=measured,
            course=course(out),
            minutes=minutes_of(out),
        )


def minutes_of(out: Path) -> float:
    """Of all passes of the search that wrote ``out``."""
    return sum(map(float, _SECONDS.findall(out.with_suffix(".study.log").read_text()))) / 60


def bare_command(command: str) -> str:
    """Without the folders of the machine it ran on."""
    return re.sub(r"(?<!\S)/\S*/", "", command)


def table(searches: Sequence[Search]) -> str:
    """A row for each search and each closed form."""
    closed = {name: loss for name, loss in searches[0].measured["held_out_loss"].items() if name != "searched"}
    rows = [
        ["factors", "evaluations", "token-forwards", "minutes", "its documents", "held-out documents"],
        ["---", *["---:"] * 5],
    ]
    rows += [[name, "", "", "", "", perplexity_of(loss)] for name, loss in closed.items()]
    for search in searches:
        found = search.measured
        rows.append(
            [
                search.name,
                str(found["evaluations"]),
                f"{found['token_forwards']:,}",
                f"{search.minutes:.0f}",
                perplexity_of(found["search_loss"]),
                perplexity_of(found["held_out_loss"]["searched"]),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def perplexity_of(loss: float) -> str:
    """As it stands in a table."""
    return f"{math.exp(loss):.3f}"


def documents(searches: Sequence[Search]) -> str:
    """What was searched on and what was held out, the same for all."""
    (found,) = {
        tuple((one["source"], one["tokens"]) for kind in ("documents", "held_out_documents") for one in each[kind])
        for each in (search.measured for search in searches)
    }
    half = len(searches[0].measured["documents"])
    named = ["; ".join(f"{source} ({tokens:,})" for source, tokens in part) for part in (found[:half], found[half:])]
    return f"- searched on: {named[0]}.\n- held out: {named[1]}."


def evaluation(title: str, folder: Path) -> str:
    """A section with the report of ``folder``; its own sections come one level deeper."""
    _, _, report = (folder / "report.md").read_text().partition("\n\n")
    deeper = bare_command(report).replace("\n## ", "\n### ")
    return f"\n## {title}\n\n{deeper}"


def main() -> None:
    """Write the page and its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("searches", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--evaluation", nargs="+", default=[], metavar="TITLE=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    named = [split_label(word) for word in given.searches]
    searches = [Search.read(name or Path(out).stem, Path(out)) for name, out in named]
    figure = Figure(figsize=(8, 4.6), dpi=140, layout="constrained")
    colors = {search.name: color for search, color in zip(searches, _COLORS, strict=False)}
    draw_courses(figure.subplots(), [(search.name, search.course) for search in searches], colors)
    picture = given.out.with_suffix(".png")
    FigureCanvasAgg(figure).print_png(str(picture))
    model = searches[0].command.split()[2]
    given.out.write_text(
        f"# Searches on {model}\n\n"
        f"{provenance('python benchmarks/search_page.py NAME=FILE ...', 'optuna', 'cma', 'transformers')}\n"
        + "".join(f"- {search.name}: `{search.command}`\n" for search in searches)
        + f"{documents(searches)}\n"
        "- perplexities; a backward pass counts as three more forward ones, a pruned candidate as far as it was "
        "scored; minutes are those of the passes.\n\n"
        f"{table(searches)}\n\n![best loss by token-forwards]({picture.name})\n"
        + "".join(evaluation(title, Path(folder)) for title, folder in map(split_label, given.evaluation))
    )


if __name__ == "__main__":
    main()
