"""A results page from a recipe that ended: what was searched, what was trained, and what it did at every length.

    recipes/smollm2_cpu.sh OUT
    python benchmarks/recipe_page.py OUT --recipe recipes/smollm2_cpu.sh --out benchmarks/results/smollm2_cpu_DATE.md

In: the files of factors with their studies, the metrics of the fine-tuning, and the evaluations in ``OUT/eval``; those
up to the lengths of the first search and those beyond are of other documents, and stand in one table. Figures are put
beside the page. Minutes are those of the passes, on whatever else the machine did, and unknown of a search whose study
was not kept. What the recipe has not come to yet is left out. ``OUT`` may be a copy without weights, texts and studies,
such as results/smollm2_cpu.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from longrope_vllm import read_factors
from longrope_vllm.evaluation.methods import NONE
from longrope_vllm.evaluation.records import Journal
from longrope_vllm.evaluation.report import About, Document, markdown, write_report
from longrope_vllm.evaluation.settings import read_settings
from longrope_vllm.lengths import format_length
from report import provenance
from search_course import course, draw_courses
from search_page import bare_command, minutes_of, perplexity_of
from training_page import Run, draw, table

SEARCHES = ("first", "evolution", "longrope2", "short", "untuned", "far")
_FIGURES = ("perplexity", "loss_by_position", "passkey", "ruler")
_COLORS = {"first": "#16376f", "evolution": "#c44e52"}
"""Searches of the same length, documents and objective, whose courses are drawn."""


def searches(out: Path) -> str:
    """A row for each length of each search, and the commands."""
    head = ["file", "tokens", "evaluations", "token-forwards", "minutes", "held out", "best closed form"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    commands = []
    for name in (name for name in SEARCHES if (out / f"{name}.json").is_file()):  # some recipes go no further
        origin = read_factors(out / f"{name}.json").origin
        commands.append(f"- {name}: `{bare_command(origin.command or '')}`\n")
        kept = (out / f"{name}.study.log").is_file()
        minutes = f"{minutes_of(out / f'{name}.json'):.0f}" if kept else "–"
        for length, measured in origin.measurements["lengths"].items():
            losses = dict(measured["held_out_loss"])
            found = losses.pop("searched")
            closed = min(losses, key=losses.__getitem__)
            of_what = " (of the answers)" if origin.measurements["objective"] == "needle" else ""
            rows.append(
                [
                    name,
                    format_length(int(length)),
                    str(measured["evaluations"]),
                    f"{measured['token_forwards']:,}",
                    minutes,
                    f"{perplexity_of(found)}{of_what}",
                    f"{closed} {perplexity_of(losses[closed])}",
                ]
            )
            minutes = ""
    return "".join(commands) + "\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def courses(out: Path, picture: Path) -> str:
    """Best loss by token-forwards of the searches that can be compared, where their studies are there."""
    if not all((out / f"{name}.study.log").is_file() for name in _COLORS):
        return ""
    figure = Figure(figsize=(8, 4.6), dpi=140, layout="constrained")
    draw_courses(figure.subplots(), [(name, course(out / f"{name}.json")) for name in _COLORS], _COLORS)
    FigureCanvasAgg(figure).print_png(str(picture))
    return f"\n\n![best loss by token-forwards]({picture.name})"


def report(title: str, out: Path, parts: Sequence[str], page: Path, *, prefix: str = "") -> str:
    """The report of ``parts`` of the evaluation as one, its sections a level deeper, its figures beside ``page``.

    Nothing where none of them was begun.
    """
    folders = [folder for part in parts if (folder := out / "eval" / part).is_dir()]
    if not folders:
        return ""
    settings = [found for folder in folders if (found := read_settings(folder)) is not None]
    records = [found for folder in folders for found in Journal.open(folder / "records.jsonl").records.values()]
    records.sort(key=lambda record: record.key.method != NONE)  # the unextended model first
    factors = read_factors(out / "first.json")
    about = About(
        title="",
        model=factors.origin.model or "",
        trained_window=factors.trained_window,
        commands=tuple(command for found in settings for command in found.commands),
        versions=settings[-1].versions,
        documents=tuple(
            Document(name=f"{each.index}: {each.source}", kind=each.group, tokens=each.tokens, sha256=each.sha256)
            for found in settings
            for each in found.documents
        ),
        settings=tuple(
            dict.fromkeys(
                (f"method {label}", stands_for) for found in settings for label, stands_for in found.methods.items()
            )
        ),
        created=settings[-1].created,
        planned=len(records),
    )
    images = []
    with tempfile.TemporaryDirectory() as scratch:
        write_report(Path(scratch), records, about)
        for name in _FIGURES:
            drawn = Path(scratch) / "figures" / f"{name}.png"
            if drawn.is_file():
                image = page.with_name(f"{page.stem}_{prefix}{name}.png")
                image.write_bytes(drawn.read_bytes())
                images.append(f"![{name.replace('_', ' ')}]({image.name})\n\n")
    _, _, text = markdown(records, about).partition("\n\n")
    return f"\n## {title}\n\n" + "".join(images) + text.replace("\n## ", "\n### ")


def main() -> None:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--recipe", required=True, help="the script that made the folder")
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE")
    given = parser.parse_args()
    out, page = given.folder, given.out
    run = Run.read("tuned", f"longrope train --out {out / 'tuned'}")
    draw([run], loss_picture := page.with_name(f"{page.stem}_loss.png"))
    page.write_text(
        f"# {given.recipe}\n\n{provenance(f'{given.recipe} OUT', 'transformers', 'optuna', 'cma')}\n"
        f"\n## Searches\n\n{searches(out)}{courses(out, page.with_name(f'{page.stem}_search.png'))}\n"
        f"\n## Fine-tuning\n\n{table([run])}\n\n![loss by step]({loss_picture.name})\n"
        + report("By length", out, ["near", "far"], page)
        + report("One rope for all lengths", out, ["one_rope"], page, prefix="one_rope_")
    )


if __name__ == "__main__":
    main()
