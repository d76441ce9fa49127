"""A results page from finished runs of ``longrope train`` on one checkpoint, and an evaluation of what they made.

    longrope train MODEL --factors FILE --short-share 0.5 ... --out DIR/mixed
    longrope eval MODEL --factors base=FILE ... --out EVALUATION
    longrope eval DIR/mixed/model --label mixed ... --out EVALUATION
    python benchmarks/training_page.py "mixed=longrope train ... --out DIR/mixed" ... --evaluation EVALUATION --out PAGE

Each run is named with the command that made it, whose ``--out`` is read. The page has losses, speed and memory of each
run, their course as a figure, the report of the evaluation and its figures; what the text was is added by hand.
"""

import argparse
import shlex
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from longrope_training.metrics import read_metrics
from longrope_vllm.evaluation.labels import split_label
from report import provenance

_FIGURES = ("perplexity", "passkey")
_KINDS = {"long": "#16376f", "short": "#dd8452"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that ended."""

    name: str
    command: str
    metrics: Sequence[dict[str, Any]]

    @classmethod
    def read(cls, name: str, command: str) -> "Run":
        """From the folder that ``command`` names."""
        words = shlex.split(command)
        out = Path(words[words.index("--out") + 1])
        return cls(name=name, command=command, metrics=read_metrics(out / "metrics.jsonl"))

    def losses(self, kind: str) -> list[tuple[int, float]]:
        """Step and loss of the rows of ``kind``."""
        return [(entry["step"], entry[f"loss_{kind}"]) for entry in self.metrics if f"loss_{kind}" in entry]

    def minutes(self) -> float:
        """Of the steps alone, from their tokens and their speed."""
        tokens = [after["tokens"] - before for after, before in zip(self.metrics, self._tokens_before(), strict=True)]
        speeds = [entry["tokens_per_second"] for entry in self.metrics]
        return sum(count / speed for count, speed in zip(tokens, speeds, strict=True)) / 60

    def _tokens_before(self) -> list[int]:
        return [0, *(entry["tokens"] for entry in self.metrics[:-1])]


def table(runs: Sequence[Run]) -> str:
    """A row for each run."""
    head = ["run", "steps", "tokens", "minutes", "tokens/s", "GB at most", "long rows, loss", "short rows, loss"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for run in runs:
        last = run.metrics[-1]
        speeds = [entry["tokens_per_second"] for entry in run.metrics]
        rows.append(
            [
                run.name,
                str(last["step"]),
                f"{last['tokens']:,}",
                f"{run.minutes():.0f}",
                f"{statistics.median(speeds):.0f}",
                f"{max(entry['memory'] for entry in run.metrics) / 1e9:.2f}",
                *(_halves([loss for _, loss in run.losses(kind)]) for kind in _KINDS),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _halves(losses: Sequence[float]) -> str:
    """Mean of the first and of the second half of the rows."""
    if len(losses) < 2:
        return "–"
    half = len(losses) // 2
    return f"{statistics.mean(losses[:half]):.3f} to {statistics.mean(losses[half:]):.3f}"


def draw(runs: Sequence[Run], picture: Path) -> None:
    """Loss by step, a panel a run."""
    figure = Figure(figsize=(4.6 * len(runs), 3.6), dpi=140, layout="constrained")
    panels = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for run, axes in zip(runs, panels, strict=True):
        for kind, color in _KINDS.items():
            if found := run.losses(kind):
                axes.plot(*zip(*found, strict=True), color=color, marker="o", markersize=3, label=f"{kind} rows")
        axes.set(title=run.name, xlabel="step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    panels[0].set_ylabel("loss (nats a token)")
    FigureCanvasAgg(figure).print_png(str(picture))


def main() -> None:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--evaluation", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    runs = [Run.read(name or "run", command) for name, command in map(split_label, given.runs)]
    course = given.out.with_name(f"{given.out.stem}_loss.png")
    draw(runs, course)
    images = []
    for name in _FIGURES:
        if (figure := given.evaluation / "figures" / f"{name}.png").is_file():
            image = given.out.with_name(f"{given.out.stem}_{name}.png")
            shutil.copyfile(figure, image)
            images.append(f"![{name}]({image.name})\n\n")
    _, _, report = (given.evaluation / "report.md").read_text().partition("\n\n")
    deeper = report.replace("\n## ", "\n### ")
    model = shlex.split(runs[0].command)[2]
    made_by = "python benchmarks/training_page.py NAME=COMMAND ... --evaluation FOLDER"
    given.out.write_text(
        f"# Fine-tuning of {model}\n\n{provenance(made_by, 'transformers')}\n"
        + "".join(f"- {run.name}: `{run.command}`\n" for run in runs)
        + "- losses are means over the first and the second half of the rows of a kind; each row is other text, so "
        "that they say little. Tokens/s: the median of the steps.\n\n"
        f"{table(runs)}\n\n![loss by step]({course.name})\n\n## What it did\n\n{''.join(images)}{deeper}"
    )


if __name__ == "__main__":
    main()
