"""``benchmarks/gpu/visit.py``: each result is there as soon as it exists, and a second visit goes on from the first."""

import json
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks" / "gpu"
LIST = """
[form.cuda]
word = "large"
[form.small]
word = "small"

[[experiment]]
name = "first"
question = "Does it write?"
minutes = {cuda = 1, small = 0.1}
command = "{python} -c 'open(\\"{out}/said\\", \\"w\\").write(\\"{word}\\")'"

[[experiment]]
name = "second"
question = "Does it end badly?"
minutes = {cuda = 1, small = 0.1}
command = '''{python} -c "import sys; print('a reason'); sys.exit('absent' in '{model}')"'''

[[experiment]]
name = "third"
question = "Does it go on?"
minutes = {cuda = 1, small = 60}
resumes = true
command = {cuda = "false", small = "{python} {texts}/long.py {out}"}

[[experiment]]
name = "fourth"
question = "Is it for GPUs alone?"
minutes = {cuda = 1}
command = "false"

[[experiment]]
name = "fifth"
question = "Is there time for it?"
minutes = {cuda = 1, small = 60}
command = "{python} {texts}/cached.py"
"""
LONG = """
import pathlib, subprocess, sys, time
out = pathlib.Path(sys.argv[1])
begun = out / "begun"
if not begun.exists():
    begun.touch()
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)  # and never ended
    (out / "child").write_text(str(child.pid))
    time.sleep(1000)
(out / "ended").touch()
"""
CACHED = """
import os, pathlib
assert (pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "longrope-vllm" / "smollm2-135m-instruct" / "config.json").exists()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "list.toml").write_text(LIST)
    (tmp_path / "long.py").write_text(LONG)
    (tmp_path / "cached.py").write_text(CACHED)
    (tmp_path / "held_out").mkdir()
    for model in ("absent", "there"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.json").touch()
    return tmp_path


def visit(place: Path, *words: str, model: str = "absent", form: str = "small") -> subprocess.CompletedProcess[str]:
    options = [
        "--model",
        str(place / model),
        "--texts",
        str(place),
        "--form",
        form,
        "--experiments",
        str(place / "list.toml"),
    ]
    command = [sys.executable, str(FOLDER / "visit.py"), str(place / "results"), *options, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def states(place: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["state"] for path in place.glob("results/*/state.json")}


def test_a_visit_ends_with_its_budget_and_the_next_one_goes_on(place: Path) -> None:
    first = visit(place, "--budget", "12s")
    assert first.returncode == 1, first.stderr
    assert states(place) == {"first": "done", "second": "failed", "third": "unfinished"}
    results = place / "results"
    assert (results / "first" / "said").read_text() == "small"
    assert "a reason" in (results / "second" / "log.txt").read_text()
    assert "| third | Does it go on? | unfinished |" in (results / "summary.md").read_text()
    assert first.stdout.endswith("not done: second, third, fifth\n")
    child = int((results / "third" / "child").read_text())
    assert ends(child), "what an experiment started ends with it"

    (results / "first" / "said").unlink()
    second = visit(place, "--again", model="there")
    assert second.returncode == 0, second.stderr
    assert "not done" not in second.stdout
    assert set(states(place).values()) == {"done"}
    assert (results / "third" / "ended").exists()
    assert not (results / "first" / "said").exists(), "what is done is not done again"


def test_a_visit_that_is_ended_ends_what_it_runs_also_in_the_background(place: Path) -> None:
    options = [
        "--model",
        str(place / "there"),
        "--texts",
        str(place),
        "--form",
        "small",
        "--experiments",
        str(place / "list.toml"),
    ]
    command = [sys.executable, str(FOLDER / "visit.py"), str(place / "results"), *options]
    with subprocess.Popen(command, preexec_fn=_ignore_interrupts) as running:
        written = place / "results" / "third" / "child"
        while not (written.exists() and written.read_text()):
            assert running.poll() is None
            time.sleep(0.05)
        running.terminate()
    assert running.returncode == 143
    assert ends(int(written.read_text()))


def test_what_failed_is_tried_again_only_where_asked(place: Path) -> None:
    assert visit(place, "--only", "second").returncode == 1
    before = (place / "results" / "second" / "log.txt").read_text()
    assert visit(place, "--only", "second", model="there").returncode == 1
    assert (place / "results" / "second" / "log.txt").read_text() == before


def test_the_list_says_how_they_stand(place: Path) -> None:
    visit(place, "--only", "first")
    listed = visit(place, "--list").stdout
    assert "| first | Does it write? | done |" in listed
    assert "| second | Does it end badly? | to do | about 0.1 |" in listed
    assert "fourth" not in listed
    assert "fourth" in visit(place, "--list", form="cuda").stdout


def test_what_was_done_in_another_form_is_not_done_in_this_one(place: Path) -> None:
    visit(place, "--only", "first")
    assert "| first | Does it write? | to do |" in visit(place, "--list", form="cuda").stdout
    visit(place, "--only", "first", form="cuda")
    assert (place / "results" / "first" / "said").read_text() == "large"
    assert "| first | Does it write? | done |" in visit(place, "--list", form="cuda").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "sixth"), "out of first, second, third"),
        (("--budget", "soon"), "such as 25m"),
        (("--model", "nowhere"), "Expected config.json in the folder of --model"),
        (("--texts", "nowhere"), "Expected held_out in the folder of --texts"),
        (("--wheels", "nowhere"), "Expected wheels in the folder of --wheels"),
    ],
)
def test_words_that_mean_nothing_are_refused(place: Path, words: tuple[str, ...], said: str) -> None:
    refused = visit(place, *words)
    assert refused.returncode != 0
    assert said in refused.stderr


@pytest.mark.parametrize("form", ["cuda", "small"])
def test_every_experiment_has_a_program_that_is_there(form: str) -> None:
    stated = tomllib.loads((FOLDER / "experiments.toml").read_text())
    values = {**stated["form"][form], "out": "OUT", "model": "MODEL", "texts": "TEXTS", "python": "python"}
    for entry in (each for each in stated["experiment"] if form in each["minutes"]):
        command = entry["command"] if isinstance(entry["command"], str) else entry["command"][form]
        for word in command.format(**values).split():
            if word.startswith(("benchmarks/", "recipes/", "tests/")):
                assert (FOLDER.parents[1] / word).exists(), word


def _ignore_interrupts() -> None:
    """As a shell has its jobs of the background do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ends(process: int) -> bool:
    """Whether it ends within seconds; one that was killed may wait for its parent to hear of it."""
    status = Path(f"/proc/{process}/status")
    for _ in range(100):
        try:
            if "State:\tZ" in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False
