"""Search against the public LongRoPE code: the best perplexity by token-forwards, on one tiny trained model.

    python benchmarks/bench_search.py prepare --work DIR            the model, the documents of both, held-out text
    python benchmarks/search_public_code.py --model DIR/checkpoint --documents DIR/documents.json --seed 42 --work DIR
    python benchmarks/bench_search.py compare --work DIR --out PAGE.md

The model is that of the tests (window 64), the target 8 windows. Both search on the same five documents, and what each
finds is scored on 64 others. Token-forwards, not seconds, are what is compared: a pass over so small a model is mostly
overhead. A backward pass counts as three forward ones.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from report import command_line, provenance
from search_course import Course, course, draw_courses

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from longrope_search.candidate import Candidate
from longrope_search.model.passages import passages_of
from longrope_search.model.scorer import Scorer
from longrope_vllm import Geometry, read_factors
from longrope_vllm.evaluation.documents import cut_documents
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.loading import tokenizer_at
from longrope_vllm.rope import BASELINES, longrope_attention_factor
from trained_llama import LONGEST, TRAINED_WINDOW, held_out_text, search_text, trained_llama

DOCUMENTS, HELD_OUT = 5, 64
SEEDS = (0, 1, 2, 3)
METHODS = {
    "evolution, as published": ("evolution", "--no-pruning", "--step", "0.01"),
    "gradient+cma (default)": ("gradient+cma",),
    "cma": ("cma",),
    "gradient": ("gradient",),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search."""

    name: str
    course: Course
    factors: tuple[float, ...]
    attention_factor: float

    @property
    def best(self) -> float:
        """Loss on the documents of the search."""
        return self.course[-1][1]

    def at(self, token_forwards: float) -> float:
        """The best loss that so many token-forwards gave."""
        return min((loss for spent, loss in self.course if spent <= token_forwards), default=math.nan)


def prepare(work: Path) -> None:
    """Train the model, and write the documents in text and in token ids."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "checkpoint").exists():
        trained_llama(work / "checkpoint.part").rename(work / "checkpoint")
    search_text(work)
    held_out_text(work)
    rows = [document.tokens.tolist() for document in documents(work, "search.txt", DOCUMENTS)]
    (work / "documents.json").write_text(json.dumps({"length": LONGEST, "documents": rows}))


def documents(work: Path, name: str, count: int) -> list:
    """The first ``count`` documents of a text."""
    return cut_documents([str(work / name)], tokenizer_at(str(work / "checkpoint")), length=LONGEST, count=count)


def ours(work: Path) -> Iterator[Run]:
    """Every method with every seed; what was searched before is read from its study."""
    for name, (method, *words) in METHODS.items():
        for seed in SEEDS[:1] if method == "evolution" else SEEDS:
            out = work / f"{method}-{seed}.json"
            command = ["search", str(work / "checkpoint"), "--target", str(LONGEST), "--method", method, *words]
            command += ["--documents", str(work / "search.txt"), "--samples", str(DOCUMENTS), "--held-out", "1"]
            command += ["--finalists", "1", "--start-tokens", "0", "--dtype", "float32", "--seed", str(seed)]
            subprocess.run(
                [sys.executable, "-m", "longrope_vllm.cli.main", *command, "--out", str(out)],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            yield Run(name=name, course=course(out), factors=(tier := read_factors(out).tiers[-1]).factors,
                      attention_factor=tier.attention_factor)  # fmt: skip


def public(work: Path) -> Iterator[Run]:
    """The searches of the public code."""
    for path in sorted(work.glob("public_curve_seed*.json")):
        found = json.loads(path.read_text())
        each = found["documents"] * found["target"]
        yield Run(
            name="public code",
            course=tuple((each * (1 + at), loss) for at, loss in enumerate(found["best_by_evaluation"])),
            factors=tuple(found["final_factors"]),
            attention_factor=longrope_attention_factor(LONGEST / TRAINED_WINDOW, TRAINED_WINDOW),
        )


def held_out_losses(work: Path, runs: Sequence[Run]) -> list[float]:
    """Mean loss of each run's factors on held-out documents."""
    geometry = Geometry.from_checkpoint(work / "checkpoint")
    scorer = Scorer(work / "checkpoint", geometry, dtype=torch.float32, device=torch.device("cpu"))
    encoder = Encoder(tokenizer_at(str(work / "checkpoint")))
    passages = passages_of("perplexity", documents(work, "held_out.txt", HELD_OUT), encoder, length=LONGEST, seed=0)
    found = []
    for run in runs:
        candidate = Candidate(factors=run.factors, attention_factor=run.attention_factor)
        losses = [scorer.measure(candidate, passage, gradient=False).loss for passage in passages]
        found.append(float(np.mean(losses)))
    return found


def closed_forms(work: Path) -> list[Run]:
    """The closed forms, with their own attention factors and no course."""
    geometry = Geometry.from_checkpoint(work / "checkpoint")
    forms = {name: BASELINES[name](geometry, LONGEST / TRAINED_WINDOW) for name in ("none", "pi", "ntk", "yarn")}
    return [
        Run(name=name, course=(), factors=tuple(form.factors.tolist()), attention_factor=form.attention_factor)
        for name, form in forms.items()
    ]


_COLORS = {
    "public code": "#444444",
    "evolution, as published": "#c44e52",
    "gradient+cma (default)": "#16376f",
    "cma": "#55a868",
    "gradient": "#dd8452",
}


def draw(runs: Sequence[Run], path: Path) -> None:
    """Best loss by token-forwards, a line for each search."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), dpi=140, layout="constrained")
    axes = figure.subplots()
    draw_courses(axes, [(run.name, run.course) for run in runs], _COLORS)
    axes.set(xscale="log", ylim=(1.86, 2.25))
    FigureCanvasAgg(figure).print_png(str(path))


def compare(work: Path, out: Path, command: str) -> None:
    """Run ours, read theirs, and write the page with its figure."""
    runs = [*public(work), *ours(work)]
    figure = out.with_suffix(".png")
    draw(runs, figure)
    budget = max(run.course[-1][0] for run in runs if run.name == "public code")
    rows = []
    for name in dict.fromkeys(run.name for run in runs):
        mine = [run for run in runs if run.name == name]
        spent = statistics.mean(run.course[-1][0] for run in mine)
        rows.append([
            name, str(len(mine)), f"{spent:,.0f}", f"{spent / budget:.1%}",
            f"{statistics.mean(run.at(budget / 10) for run in mine):.4f}", _several([run.best for run in mine]),
            _several(held_out_losses(work, mine)),
        ])  # fmt: skip
    for form, loss in zip(forms := closed_forms(work), held_out_losses(work, forms), strict=True):
        rows.append([form.name, "", "", "", "", "", f"{loss:.4f}"])
    head = ["search", "runs", "token-forwards", "of the public budget", "best loss at a tenth of it", "best loss",
            "held-out loss"]  # fmt: skip
    table = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    out.write_text(f"# Search against the public LongRoPE code\n\n{provenance(command, 'optuna', 'cma')}\n{_NOTES}\n\n"
                   f"{table}\n\n![best loss by token-forwards]({figure.name})\n")  # fmt: skip


def _several(values: Sequence[float]) -> str:
    shown = f"{statistics.mean(values):.4f}"
    return shown if len(values) == 1 else f"{shown} ({min(values):.4f} to {max(values):.4f})"


_NOTES = (
    "- model: the tests' Llama of four layers, really trained on a window of 64 characters of Python source; target "
    "512; five documents to search on, 64 others to judge by; losses in nats a token, means over runs, with the least "
    "and the largest.\n"
    "- the public code (`dim_mono`, its default 1,344 evaluations) ran under transformers 4.41 with the patches listed "
    "in `search_public_code.py`; closed forms have their own attention factors, all searches LongRoPE's. Gradient "
    "descent draws no random numbers: its four runs are one."
)


def main() -> None:
    """``prepare`` or ``compare``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "compare"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.step == "prepare":
        prepare(given.work)
    else:
        compare(given.work, given.out, command_line("bench_search.py", ["compare", "--work", "DIR"]))


if __name__ == "__main__":
    main()
