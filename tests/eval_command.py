"""``longrope eval`` on a tiny model: its arguments, and what it wrote down."""

import json
from pathlib import Path

LENGTHS = "512,1k"


def options(model: Path | str, out: Path, *more: str) -> list[str]:
    """Arguments of a short run on ``model``, a folder or a URL; of options given twice the last one counts."""
    in_process = [] if str(model).startswith("http") else ["--dtype", "float32"]
    return [
        *("eval", str(model), "--out", str(out), *in_process),
        *("--lengths", LENGTHS, "--documents", "synthetic", "--samples", "2", "--depths", "2", "--trials", "1"),
        *more,
    ]


def records(out: Path) -> dict[tuple[str, ...], dict[str, float]]:
    """Figures by key."""
    found = [json.loads(line) for line in (out / "records.jsonl").read_text().split("\n") if line]
    return {
        tuple(str(line[name]) for name in ("task", "method", "length", "group", "sample")): line["values"]
        for line in found
    }
