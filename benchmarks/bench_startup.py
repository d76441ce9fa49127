"""What the plugin adds to the start of vLLM's processes, for a plain checkpoint and for a longrope one.

    python benchmarks/bench_startup.py --out benchmarks/results/startup_cpu_DATE.md [--pairs N]

Three processes: one that makes an engine configuration and nothing else, the API server (options, configuration, input
and output processing, HTTP routes) and the engine (scheduler, worker, model of two random layers, KV cache). The clock
starts when the modules are there that vLLM imports before it looks for plugins (``startup_phases.py``). Two measures,
neither of which knows our modules:

- paired: the start with ``VLLM_PLUGINS=longrope`` less that with ``VLLM_PLUGINS=``, taking turns;
- sampled: the part of the main thread's time in which the plugin does what stock vLLM would not (``sampler.py``).

About 5 minutes on two CPU cores with 5 pairs, 9 with 10.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checkpoints import THIN, tiered, variant
from report import command_line, provenance, spread

PROCESSES = ("configuration", "API server", "engine")
SERVES = {"plain": "another model (plain rope)", "longrope": "a longrope checkpoint"}
GOALS = {"plain": 0.2, "longrope": 1.0}
WINDOW, LONGEST = 8_192, 131_072


def measure(process: str, model: Path, pairs: int) -> dict[str, Any]:
    """What ``startup_phases.py`` writes about one process and one checkpoint."""
    print(f"{process}, {model.name}", file=sys.stderr, flush=True)
    out, log = model.with_suffix(".json"), model.with_suffix(".log")
    script = Path(__file__).with_name("startup_phases.py")
    # Installed packages are compiled; without this, ours would be compiled anew at each start where that is forbidden.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"VLLM_PLUGINS": "", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, str(script), process, str(model), str(pairs), str(out)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(f"{process}, {model.name}: exit code {done.returncode}\n{log.read_text()[-3000:]}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def row(process: str, kind: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    added = {
        clock: [ours[clock] - stock[clock] for ours, stock in zip(found["longrope"], found["stock"], strict=True)]
        for clock in ("wall", "cpu")
    }
    stock = statistics.median(start["wall"] for start in found["stock"])
    columns = (
        process,
        SERVES[kind],
        spread(found["sampled"]),
        f"< {GOALS[kind]}",
        spread(added["wall"]),
        spread(added["cpu"]),
        f"{stock:.2f}",
        str(len(found["modules"])),
    )
    return f"| {' | '.join(columns)} |"


def markdown(rows: list[str], pairs: int, command: str) -> str:
    """The results page."""
    lines = [
        "# What the plugin adds to the start of vLLM's processes, on the CPU",
        "",
        f"Seconds; median, quartiles in brackets. Paired: {pairs} pairs of starts in turns, plugin less stock.",
        "",
        "| process | serves | sampled | goal | paired, wall | paired, processor | stock start | modules added |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
        "- each start is counted from the moment when vLLM has imported what it imports before it looks for plugins.",
        f"- checkpoints: SmolLM2's configuration cut to 2 layers of 3 heads of 128, random weights; plain, and "
        f"with tiers up to {WINDOW:,} (plain) and {LONGEST:,} tokens (YaRN).",
        "- sampled: what the plugin does and stock vLLM does not, also where it takes something of stock vLLM's place; "
        "the paired difference is net of that and holds the noise of two starts. Processor time counts all threads.",
        provenance(command),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure each process for each checkpoint, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=10)
    asked = parser.parse_args()
    shape = THIN | {"head_dim": 128}
    with tempfile.TemporaryDirectory() as folder:
        models = (
            variant(Path(folder) / "plain", max_position_embeddings=LONGEST, **shape),
            tiered(Path(folder) / "longrope", WINDOW, LONGEST, **shape),
        )
        rows = []
        for process in PROCESSES:
            for model in models:
                found = measure(process, model, asked.pairs)
                rows.append(row(process, model.name, found))
                print(f"{rows[-1]}\n{' '.join(Path(file).name for file in found['modules'])}", file=sys.stderr)
    asked.out.write_text(markdown(rows, asked.pairs, command_line("bench_startup.py", sys.argv[1:])))


if __name__ == "__main__":
    main()
