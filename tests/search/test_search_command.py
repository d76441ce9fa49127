"""``longrope search`` as a user runs it, on a trained model: better than every closed form, and repeatable."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from longrope_vllm import read_factors
from longrope_vllm.cli.main import main
from trained_llama import TRAINED_WINDOW, held_out_text, search_text

Search = Callable[..., dict[str, object]]

FAST = ("--dtype", "float32", "--samples", "8", "--held-out", "4", "--finalists", "2", "--start-tokens", "0")
BUDGETS = {
    "evolution": ("--population", "16", "--iterations", "10"),
    "cma": ("--evaluations", "80"),
    "gradient": ("--steps", "40"),
}
"""Small ones: a tiny model has 16 pairs."""


@pytest.fixture
def texts(tmp_path: Path) -> tuple[str, ...]:
    """A text to search on; its later documents are the held-out ones."""
    return "--documents", str(search_text(tmp_path))


def command(folder: Path, model: Path, *words: str) -> list[str]:
    """The command line of a search in ``folder``."""
    return ["search", str(model), "--out", str(folder / "factors.json"), *FAST, *words]


def measured(path: Path, length: int) -> dict[str, object]:
    """What a factors file says about ``length``."""
    found: dict[str, object] = json.loads(path.read_text())["origin"]["measurements"]["lengths"][str(length)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("times", [4, 8])
@pytest.mark.parametrize("method", list(BUDGETS))
def test_every_method_beats_pi_ntk_and_yarn_on_documents_it_has_not_seen(
    trained: Path, texts: tuple[str, ...], tmp_path: Path, method: str, times: int
) -> None:
    length = times * TRAINED_WINDOW
    assert main(command(tmp_path, trained, "--target", str(length), "--method", method, *BUDGETS[method], *texts)) == 0
    losses = measured(tmp_path / "factors.json", length)["held_out_loss"]
    assert isinstance(losses, dict)
    print(method, times, losses)
    assert losses["searched"] < min(losses[name] for name in ("none", "pi", "ntk", "dynamic-ntk", "yarn"))
    found = read_factors(tmp_path / "factors.json")
    assert [tier.max_length for tier in found.tiers] == [TRAINED_WINDOW, length]
    assert (tmp_path / "factors.html").stat().st_size > 10_000


def run_apart(arguments: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    """``longrope`` in a process of its own, which says what it says in ``said.txt``."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "longrope_vllm.cli.main", *arguments],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def kill_after(process: "subprocess.Popen[bytes]", study: Path, *, lines: int) -> None:
    """SIGKILL when the study has grown to so many lines."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if study.exists() and study.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


WORDS = ("--target", "256", "--method", "evolution", "--population", "8", "--iterations", "4")


def test_the_same_seed_gives_the_same_file_also_after_kill_9(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = []
    for name in ("unbroken", "broken"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        search_text(folder)
        arguments = command(Path(), trained, *WORDS, "--documents", "search.txt")
        if name == "broken":
            for lines in (30, 120):
                kill_after(run_apart(arguments, folder), folder / "factors.study.log", lines=lines)
                assert not (folder / "factors.json").exists()
        assert main(arguments) == 0
        contents.append((folder / "factors.json").read_bytes())
    assert contents[0] == contents[1]


def test_two_workers_killed_at_random_leave_the_same_result(trained: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "alone", tmp_path / "helped"]
    for folder in folders:
        folder.mkdir()
        search_text(folder)
    arguments = command(Path(), trained, *WORDS, "--documents", "search.txt")
    assert run_apart(arguments, folders[0]).wait(300) == 0
    study = folders[1] / "factors.study.log"
    first = run_apart(arguments, folders[1])
    kill_after(first, study, lines=20)
    helper = run_apart(["search", "worker", "--study", "factors.study.log"], folders[1])
    other = run_apart(["search", "worker", "--study", "factors.study.log"], folders[1])
    kill_after(helper, study, lines=60)
    last = run_apart(arguments, folders[1])
    kill_after(other, study, lines=140)
    assert last.wait(300) == 0, (folders[1] / "said.txt").read_text()
    assert (folders[1] / "factors.json").read_bytes() == (folders[0] / "factors.json").read_bytes()


def test_tiers_are_found_one_after_the_other_and_a_second_stage_multiplies(
    trained: Path, texts: tuple[str, ...], tmp_path: Path
) -> None:
    out = str(tmp_path / "factors.json")
    small = (*FAST, "--method", "gradient", "--steps", "8", *texts)
    assert main(["search", "tiers", str(trained), "--lengths", "128,256", "--out", out, *small]) == 0
    first = read_factors(out)
    assert [tier.max_length for tier in first.tiers] == [64, 128, 256]
    second = str(tmp_path / "second.json")
    assert main(["search", str(trained), "--target", "512", "--from", out, "--out", second, *small]) == 0
    found = read_factors(second)
    assert [tier.max_length for tier in found.tiers] == [64, 128, 256, 512]
    assert found.tiers[:3] == first.tiers
    spoke_for_it = {"command": first.origin.command, **first.origin.measurements}
    assert found.origin.measurements["before"] == spoke_for_it, "what was found before keeps what speaks for it"
    multiplied = [new / old for new, old in zip(found.tiers[3].factors, first.tiers[2].factors, strict=True)]
    assert all(1 - 1e-9 <= factor <= 1.25 * 2 + 1e-9 for factor in multiplied)
    short = str(tmp_path / "short.json")
    assert main(["search", "short", str(trained), "--lengths", "32,64", "--from", second, "--out", short, *small]) == 0
    recovered = read_factors(short)
    assert [tier.max_length for tier in recovered.tiers] == [32, 64, 128, 256, 512]
    assert max(recovered.tiers[0].factors) <= 1.25
    assert recovered.tiers[2:] == found.tiers[1:]


def test_the_needle_objective_and_the_second_space_run_to_their_end(
    trained: Path, texts: tuple[str, ...], tmp_path: Path
) -> None:
    words = ("--target", "512", "--space", "longrope2", "--objective", "needle", "--population", "8")
    assert main(command(tmp_path, trained, *words, "--iterations", "2", *texts)) == 0
    tier = read_factors(tmp_path / "factors.json").tiers[-1]
    assert max(tier.factors) <= 2 * 8


def test_found_factors_serve_as_they_are(trained: Path, texts: tuple[str, ...], tmp_path: Path) -> None:
    assert main(command(tmp_path, trained, "--target", "256", "--method", "gradient", "--steps", "4", *texts)) == 0
    held = held_out_text(tmp_path)
    factors, out = str(tmp_path / "factors.json"), str(tmp_path / "evaluated")
    evaluated = ["eval", str(trained), "--factors", factors, "--methods", "none", "--lengths", "256"]
    assert main([*evaluated, "--tasks", "ppl", "--documents", str(held), "--dtype", "float32", "--out", out]) == 0
    assert "factors" in (tmp_path / "evaluated" / "report.md").read_text()
