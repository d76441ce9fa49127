"""``longrope eval`` that is cut off: killed, interrupted, out of disk, left by its server; and how it goes on."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from completions_site import Site, serving
from eval_command import options, records
from longrope_vllm.cli.main import main


def test_a_run_that_measured_nothing_binds_nobody(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with serving(Site(answers=0)) as site:
        assert main(options(site.url, out, "--tasks", "ppl", "--tokenizer", str(model))) == 2
    assert main(options(model, out, "--tasks", "ppl", "--seed", "7")) == 0
    capsys.readouterr()


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(options(model, out, "--methods", "none", "--tasks", "ppl")) == 0
    kept = (out / "records.jsonl").read_bytes()
    limit = max(len(kept) + 100, *(path.stat().st_size for path in out.rglob("*") if path.is_file()))
    (out / "records.jsonl").write_bytes(kept + b"\n" * (limit - len(kept)))
    command = [
        sys.executable,
        "-m",
        "longrope_vllm.cli.main",
        *options(model, out, "--methods", "pi", "--tasks", "ppl"),
    ]
    full = f"import resource, os, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit + 10}, {limit + 10})); "
    full += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    run = subprocess.run([sys.executable, "-c", full, *command], capture_output=True, text=True, timeout=300)
    assert run.returncode == 2
    assert "records.jsonl, found: File too large. What was measured before is kept" in run.stderr
    assert main(options(model, out, "--methods", "pi", "--tasks", "ppl")) == 0
    assert {key[1] for key in records(out)} == {"none", "pi"}


def test_a_run_that_was_killed_goes_on_and_ends_like_an_unbroken_one(model: Path, tmp_path: Path) -> None:
    more = ("--methods", "none,pi,yarn", "--tasks", "ppl,passkey")
    assert main(options(model, tmp_path / "unbroken", *more)) == 0
    out = tmp_path / "out"
    command = [sys.executable, "-m", "longrope_vllm.cli.main", *options(model, out, *more)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    deadline = time.monotonic() + 300
    while not (out / "records.jsonl").exists() or len((out / "records.jsonl").read_text().splitlines()) < 3:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    some = len(records(out))
    assert main(options(model, out, *more)) == 0
    assert some < len(records(out))
    assert records(out) == records(tmp_path / "unbroken")


def test_a_server_that_dies_leaves_what_it_answered_and_another_goes_on(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def asked(url: str) -> list[str]:
        return options(url, out, "--tasks", "ppl,passkey", "--tokenizer", str(model), "--concurrency", "2")

    with serving(Site(answers=3)) as site:
        assert main(asked(site.url)) == 2
    assert "found none that answers" in capsys.readouterr().err
    kept = records(out)
    assert len(kept) == 3
    assert (out / "report.html").exists()
    with serving(Site()) as site:
        assert main(asked(site.url)) == 0
    assert len(site.bodies) == 8 - 3
    assert {key: records(out)[key] for key in kept} == kept
    assert {key[1] for key in records(out)} == {"tiny"}


def test_an_interrupt_ends_it_although_a_server_goes_on_thinking(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serving(Site(seconds=60.0)) as site:
        asked = options(site.url, out, "--tasks", "ppl", "--tokenizer", str(model), "--concurrency", "2")
        command = [sys.executable, "-m", "longrope_vllm.cli.main", *asked]
        run = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # A test run in the background ignores SIGINT, and what it starts would inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while len(site.bodies) < 2:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=20)
        assert run.returncode == 130
        assert said.endswith(b"longrope eval: interrupted\n")
