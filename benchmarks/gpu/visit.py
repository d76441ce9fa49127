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
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import machine_name

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_LEAST = 2.0
"""Seconds below which nothing new is begun."""
_GRACE = 20.0
"""Seconds that an interrupted experiment has to put things down."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One entry of the list."""

    name: str
    question: str
    minutes: float
    """About, in the form that runs."""
    resumes: bool
    """Whether what was interrupted goes on, so that it may be begun with less time than it takes."""
    command: str
    """With the values of the form, and ``{out}``, ``{model}``, ``{texts}`` and ``{python}`` in braces."""


@dataclass(frozen=True, kw_only=True)
class State:
    """How an experiment stands."""

    state: str
    """``done``, ``failed`` or ``unfinished``."""
    seconds: float
    """Over all visits."""
    command: str
    """As ``Experiment.command``: places may be others at the next visit."""
    code: int
    machine: str


def read_list(path: Path, form: str) -> list[Experiment]:
    """Experiments of ``form`` in their order."""
    stated = tomllib.loads(path.read_text())
    if form not in stated["form"]:
        sys.exit(f"Expected a form out of {', '.join(stated['form'])}, found {form!r}.")
    values = stated["form"][form]
    return [
        Experiment(
            name=entry["name"],
            question=entry["question"],
            minutes=entry["minutes"][form],
            resumes=entry.get("resumes", False),
            command=_of_form(entry["command"], form, values),
        )
        for entry in stated["experiment"]
        if form in entry["minutes"]
    ]


def _of_form(command: str | Mapping[str, str], form: str, values: Mapping[str, str]) -> str:
    places = {name: f"{{{name}}}" for name in ("out", "model", "texts", "python")}
    return " ".join((command if isinstance(command, str) else command[form]).format(**values, **places).split())


def read_state(experiment: Experiment, folder: Path) -> State | None:
    """Of an experiment that was begun by the same command."""
    path = folder / "state.json"
    found = State(**json.loads(path.read_text())) if path.exists() else None
    return found if found and found.command == experiment.command else None


def run(experiment: Experiment, folder: Path, command: str, *, limit: float, environment: Mapping[str, str]) -> State:
    """One experiment for at most ``limit`` seconds; its state is on disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    before = read_state(experiment, folder)
    started = time.monotonic()
    with (folder / "log.txt").open("ab") as log:
        log.write(f"$ {command}\n".encode())
        log.flush()
        process = subprocess.Popen(
            shlex.split(command),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_hear_interrupts,
        )
        interrupted = False
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            interrupted = True
        finally:
            _end(process)
    seconds = time.monotonic() - started + (before.seconds if before else 0)
    state = "unfinished" if interrupted else "failed" if process.returncode else "done"
    machine = machine_name()
    found = State(
        state=state,
        seconds=round(seconds, 1),
        command=experiment.command,
        code=process.returncode,
        machine=machine,
    )
    unfinished = folder / ".state.json"
    unfinished.write_text(json.dumps(asdict(found), indent=2) + "\n")
    unfinished.replace(folder / "state.json")
    return found


def _hear_interrupts() -> None:
    """What is started in the background ignores SIGINT, and would leave its servers behind when it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """An interrupt to the experiment, then an end to it and to all that it started, which may hold the GPU's memory."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    try:
        _end_group(process)
    finally:
        for survivor in started:
            with suppress(psutil.NoSuchProcess):  # raised as well where its number is another's by now
                survivor.kill()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGINT, _GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


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
            found = run(experiment, folder, command, limit=max(left - _GRACE, left / 2), environment=environment)
            print(f"{experiment.name}: {found.state} after {found.seconds:.0f} s", flush=True)
            (results / "summary.md").write_text(summary(experiments, results))
        states.append(found.state if found else "to do")
    if left_over := [each.name for each, state in zip(experiments, states, strict=True) if state != "done"]:
        print(f"not done: {', '.join(left_over)}")
    return 1 if "failed" in states else 3 if set(states) - {"done"} else 0


if __name__ == "__main__":
    sys.exit(main())
