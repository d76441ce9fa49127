"""Two processes give the losses of one: with shared rows, and each with rows of its own; long ones, and both kinds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longrope_vllm.cli.main import main
from tiny_training import losses, words

pytest.importorskip("deepspeed", reason="the extra sp is not installed")


@pytest.mark.parametrize(
    ("parallel", "more"),
    [
        ("sp", ("--short-share", "0")),
        ("sp", ("--short-share", "0.5")),
        ("sp", ("--tuning", "lora")),
        ("single", ("--short-share", "0.5")),
    ],
)
def test_two_processes_train_as_one(
    model: Path, factors: Path, text: Path, tmp_path: Path, parallel: str, more: tuple[str, ...]
) -> None:
    assert main(words(tmp_path, *more, out="one")) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29613"]
    run = subprocess.run(
        [*command, "-m", "longrope_vllm.cli.main", *words(tmp_path, *more, "--parallel", parallel, out="two")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    groups, ways = (1, 2) if parallel == "sp" else (2, 1)
    assert f"parallel {parallel}: {groups} rows at a time, {ways} of 2 processes for each" in run.stdout
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)
