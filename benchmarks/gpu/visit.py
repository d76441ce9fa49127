"""Run the list of experiments on a machine that is at hand for a short time, the most valuable first.

    python benchmarks/gpu/visit.py RESULTS --model MODEL --texts TEXTS [--wheels WHEELS] [--budget 25m] [--form small]
                                   [--only NAME,...] [--again] [--list]

``experiments.toml`` says what they are. Each has a folder in RESULTS with its log, its results and ``state.json``,
which are there as soon as it ends; ``RESULTS/summary.md`` lists all. When the budget is spent the running one is
interrupted, and the next visit, with the same RESULTS, goes on: what is done is passed over, what failed is tried
again with ``--again`` alone. What was run in another form, or by another command, is as if it had not been. WHEELS are
installed first, into ``RESULTS/../site``, without an index; the machine's own packages stay. The form ``small`` is for
a CPU and for trying the list out.

Exit code: 0 all done, 3 some are left, 1 some failed.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments import GRACE, ROOT, Experiment, read_list, read_state, run

HERE = Path(__file__).parent
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_LEAST = 2.0
"""Seconds below which nothing new is begun."""


def install(wheels: Path, site: Path) -> None:
    """All ``wheels`` into ``site``, without an index and without asking what they need."""
    if (site / ".complete").exists():
        return
    print(f"installing the wheels of {wheels} into {site}", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade"]
    if subprocess.run([*pip, "--target", str(site), *map(str, sorted(wheels.glob("*.whl")))], check=False).returncode:
        sys.exit(f"Expected to install the wheels of {wheels}, found pip's failure above: gather them anew.")
    (site / ".complete").touch()


def environment_with(model: Path, place: Path) -> dict[str, str]:
    """What experiments find in their environment; ``model`` stands where benchmarks look for the demo's."""
    cache = place / "cache"
    link = cache / "longrope-vllm" / "smollm2-135m-instruct"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(model)
    return {
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(cache),
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # the wheels are without flashinfer, which vLLM takes for granted there
    }


def summary(experiments: Sequence[Experiment], results: Path) -> str:
    """All of them as a table."""
    rows = ["| experiment | question | state | minutes |", "|---|---|---|---:|"]
    for experiment in experiments:
        found = read_state(experiment, results / experiment.name)
        state, minutes = (
            (found.state, f"{found.seconds / 60:.1f}") if found else ("to do", f"about {experiment.minutes:g}")
        )
        rows.append(f"| {experiment.name} | {experiment.question} | {state} | {minutes} |")
    return "\n".join(rows) + "\n"


def duration(text: str) -> float:
    """``25m``, ``90s``, ``2h``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected a time such as 25m, found {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def main() -> int:
    """Run what there is time for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("results", type=Path, metavar="RESULTS")
    add("--model", type=Path, required=True, help="SmolLM2-135M-Instruct, as `longrope demo --fetch` makes it")
    add("--texts", type=Path, required=True, help="as recipes/texts.py makes them")
    add("--wheels", type=Path, help="to be installed first")
    add("--budget", type=duration, default=float("inf"), help="time for all, such as 25m")
    add("--form", default="cuda", help="cuda, or small")
    add("--only", default="", metavar="NAME,...", help="some of the list")
    add("--again", action="store_true", help="try those again that failed")
    add("--list", action="store_true", help="say how they stand, and end")
    add("--experiments", type=Path, default=HERE / "experiments.toml", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what runs is to end as well
    ends = time.monotonic() + asked.budget
    experiments = read_list(asked.experiments, asked.form)
    unknown = set(filter(None, asked.only.split(","))) - {experiment.name for experiment in experiments}
    if unknown:
        sys.exit(f"Expected experiments out of {', '.join(each.name for each in experiments)}, found {min(unknown)!r}.")
    results = asked.results.resolve()
    if asked.list:
        print(summary(experiments, results), end="")
        return 0
    for option, place in (("--model", asked.model / "config.json"), ("--texts", asked.texts / "held_out")):
        if not place.exists():
            sys.exit(f"Expected {place.name} in the folder of {option}, found none at {place}.")
    if asked.wheels and not any(asked.wheels.glob("*.whl")):
        sys.exit(f"Expected wheels in the folder of --wheels, found none in {asked.wheels}.")
    results.mkdir(parents=True, exist_ok=True)
    environment = environment_with(asked.model.resolve(), results.parent)
    if asked.wheels:
        site = results.parent / "site"
        install(asked.wheels.resolve(), site)
        sources = (ROOT, ROOT / "search", ROOT / "training")  # this checkout before the wheel that was made of one
        environment |= {
            "PYTHONPATH": ":".join(map(str, (*sources, site))),
            "PATH": f"{site / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
    states = []
    for experiment in experiments:
        folder = results / experiment.name
        found = read_state(experiment, folder)
        over = found is not None and (found.state == "done" or (found.state == "failed" and not asked.again))
        left = ends - time.monotonic()
        enough = left > (_LEAST if experiment.resumes else max(_LEAST, experiment.minutes * 60))
        if not over and enough and (not asked.only or experiment.name in asked.only.split(",")):
            command = experiment.command.format(
                out=folder,
                model=asked.model.resolve(),
                texts=asked.texts.resolve(),
                python=sys.executable,
            )
            print(f"{experiment.name}: {experiment.question} about {experiment.minutes:g} minutes", flush=True)
            found = run(experiment, folder, command, limit=max(left - GRACE, left / 2), environment=environment)
            print(f"{experiment.name}: {found.state} after {found.seconds:.0f} s", flush=True)
            (results / "summary.md").write_text(summary(experiments, results))
        states.append(found.state if found else "to do")
    if left_over := [each.name for each, state in zip(experiments, states, strict=True) if state != "done"]:
        print(f"not done: {', '.join(left_over)}")
    return 1 if "failed" in states else 3 if set(states) - {"done"} else 0


if __name__ == "__main__":
    sys.exit(main())
