"""A checkpoint is there whole or not at all, and the last good one stays whatever happens to a newer one."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from longrope_training.checkpoints import Checkpoints, is_whole, step_of


def _write(checkpoints: Checkpoints, step: int, *, content: bytes = b"weights") -> Path:
    written = checkpoints.staging / f"checkpoint-{step}"
    (written / "part").mkdir(parents=True)
    (written / "model.safetensors").write_bytes(content)
    (written / "part" / "optimizer.pt").write_bytes(content * 3)
    return checkpoints.seal(step)


def test_the_newest_sealed_checkpoint_is_found_and_the_oldest_are_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    for step in (5, 50, 100):
        _write(checkpoints, step)
    assert checkpoints.newest() == tmp_path / "step-100"
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-100", "step-50"]
    assert step_of(tmp_path / "step-100") == 100


@pytest.mark.parametrize("harm", ["cut", "changed", "lost", "unsealed", "seal cut"])
def test_a_torn_checkpoint_is_passed_over_for_the_last_good_one(tmp_path: Path, harm: str) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    good, torn = _write(checkpoints, 10), _write(checkpoints, 20)
    weights = torn / "model.safetensors"
    match harm:
        case "cut":
            os.truncate(weights, 3)
        case "changed":
            weights.write_bytes(b"WEIGHTS")
        case "lost":
            (torn / "part" / "optimizer.pt").unlink()
        case "unsealed":
            (torn / "sealed.json").unlink()
        case "seal cut":
            os.truncate(torn / "sealed.json", 7)
    assert checkpoints.newest() == good
    assert checkpoints.torn() == [torn]


def test_torn_ones_of_later_steps_give_way_to_those_that_are_made_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    for step in (10, 20, 30):
        _write(checkpoints, step)
    for step in (20, 30):
        (checkpoints.at(step) / "model.safetensors").write_bytes(b"")
    assert checkpoints.newest() is None
    assert _write(checkpoints, 15) == checkpoints.newest()
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-15"]


def test_what_an_interrupted_run_had_begun_to_write_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    _write(checkpoints, 10)
    begun = checkpoints.staging / "checkpoint-20"
    begun.mkdir(parents=True)
    (begun / "model.safetensors").write_bytes(b"half")
    assert checkpoints.newest() == tmp_path / "step-10"
    checkpoints.clear_staging()
    assert not checkpoints.staging.exists()


def test_a_checkpoint_takes_the_place_of_a_torn_one_of_the_same_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    os.truncate(_write(checkpoints, 10) / "model.safetensors", 0)
    assert checkpoints.newest() is None
    again = _write(checkpoints, 10)
    assert is_whole(again)
    assert checkpoints.newest() == again


def test_a_full_disk_while_sealing_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    _write(Checkpoints(folder=tmp_path, keep=2), 10)
    program = f"""
from pathlib import Path
from longrope_training.checkpoints import Checkpoints
checkpoints = Checkpoints(folder=Path({str(tmp_path)!r}), keep=2)
written = checkpoints.staging / "checkpoint-20"
written.mkdir(parents=True)
for number in range(40):
    (written / f"a part of the optimizer by a long name {{number}}").write_bytes(b"few")
try:
    checkpoints.seal(20)
except OSError as error:
    print("refused:", error.strerror)
"""
    limit = 1024  # bytes a file: the seal of 40 files is longer
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert "refused: File too large" in run.stdout, run.stderr
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    assert checkpoints.newest() == tmp_path / "step-10"
    assert checkpoints.torn() == []
