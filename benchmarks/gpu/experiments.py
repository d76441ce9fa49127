"""Experiments of a list, each run for a limited time, with a state on disk that the next visit finds."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import machine_name

ROOT = Path(__file__).parents[2]
GRACE = 20.0
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
    for number, seconds in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
