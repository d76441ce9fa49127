"""Killed, out of disk, or with a torn checkpoint: a run goes on to the same losses and the same weights."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from longrope_vllm.cli.main import main
from tiny_training import losses, weights, words


@pytest.fixture
def unbroken(model: Path, factors: Path, text: Path, tmp_path: Path) -> Path:
    """The output folder of a run that nothing happened to."""
    assert main(words(tmp_path, out="unbroken")) == 0
    return tmp_path / "unbroken"


def _same(found: Path, unbroken: Path) -> None:
    assert losses(found) == losses(unbroken)
    expected = weights(unbroken)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(found).items())


def _start(folder: Path, *more: str, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "longrope_vllm.cli.main", *words(folder, *more, out="broken")]
    log = (folder / "broken.log").open("ab")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment, **options)  # type: ignore[call-overload, no-any-return]


def test_killed_at_any_step_it_ends_with_the_same_weights(unbroken: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "broken" / "metrics.jsonl"
    for lines in (1, 3, 5):
        run = _start(tmp_path)
        while run.poll() is None and not (metrics.exists() and len(metrics.read_bytes().splitlines()) >= lines):
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert main(words(tmp_path, out="broken")) == 0
    _same(tmp_path / "broken", unbroken)


def test_a_torn_checkpoint_is_told_and_passed_over(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = unbroken / "checkpoints" / "step-6"
    os.truncate(newest / "model.safetensors", 100)
    expected = losses(unbroken)
    assert main(words(tmp_path, out="unbroken")) == 0
    assert f"passed over, because parts of it are missing: {newest}" in capsys.readouterr().out
    assert losses(unbroken) == expected


def test_a_full_disk_at_a_checkpoint_leaves_the_last_good_one(unbroken: Path, tmp_path: Path) -> None:
    def nearly_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # the weights are larger

    small = tmp_path / "broken"
    run = _start(tmp_path, preexec_fn=nearly_full)
    assert run.wait() == 2
    said = (tmp_path / "broken.log").read_text()
    assert "File too large" in said or "No space" in said, said
    assert not list((small / "checkpoints").glob("step-*"))
    assert main(words(tmp_path, out="broken")) == 0
    _same(small, unbroken)
