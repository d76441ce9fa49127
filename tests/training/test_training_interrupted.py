"""Killed, out of disk, out of numbers, or with a torn checkpoint: a run goes on to the same losses and weights."""

import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longrope_training.trainer import LongContextTrainer
from longrope_vllm.cli.main import main
from longrope_vllm.errors import EXIT_CODE
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


def _start(folder: Path, *, file_size: int = -1) -> subprocess.Popen[bytes]:
    """A run in a process of its own, whose files may have so many bytes."""
    command = [sys.executable, "-m", "longrope_vllm.cli.main", *words(folder, out="broken")]
    with (folder / "broken.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (file_size, file_size)),
        )


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


@pytest.mark.parametrize("file_size", [1 << 20, 4 << 20], ids=["weights", "optimizer"])  # what is larger than that
def test_a_full_disk_at_a_checkpoint_ends_the_run_with_one_sentence(
    unbroken: Path, tmp_path: Path, file_size: int
) -> None:
    small = tmp_path / "broken"
    run = _start(tmp_path, file_size=file_size)
    assert run.wait() == 2
    said = (tmp_path / "broken.log").read_text()
    assert "longrope train: Expected room for a checkpoint in" in said, said
    assert "Traceback" not in said
    assert not list((small / "checkpoints").glob("step-*"))
    assert main(words(tmp_path, out="broken")) == 0
    _same(small, unbroken)


@pytest.mark.parametrize("spoiled", [lambda loss: loss * math.nan, lambda loss: loss + (loss * 0).sqrt()])
def test_a_loss_or_a_gradient_that_is_no_number_ends_the_run_and_keeps_what_was_before(
    unbroken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    spoiled: Callable[[Tensor], Tensor],
) -> None:
    whole = LongContextTrainer.summed_loss

    def at_the_fifth_step(trainer: LongContextTrainer, *batch: object) -> tuple[Tensor, int]:
        loss, counted = whole(trainer, *batch)  # type: ignore[arg-type]
        return (spoiled(loss) if trainer.state.global_step == 4 else loss), counted

    with monkeypatch.context() as changed:
        changed.setattr(LongContextTrainer, "summed_loss", at_the_fifth_step)
        changed.setenv("FORCE_COLOR", "1")  # a terminal, whose cursor is hidden while a bar is shown
        assert main(words(tmp_path, "--save-every", "1", out="broken")) == EXIT_CODE
    said = capsys.readouterr()
    assert "found others at step 5 of 6" in said.err
    assert said.out.count("\x1b[?25l") == said.out.count("\x1b[?25h") > 0
    assert max((tmp_path / "broken" / "checkpoints").glob("step-*")).name == "step-4"
    assert main(words(tmp_path, out="broken")) == 0
    _same(tmp_path / "broken", unbroken)
