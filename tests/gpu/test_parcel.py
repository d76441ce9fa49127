"""``benchmarks/gpu/parcel.py``: a folder arrives as it was left, in whatever order and however often parts come."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

PARCEL = Path(__file__).parents[2] / "benchmarks" / "gpu" / "parcel.py"
MIB = 1 << 20


def parcel(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(PARCEL), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("visit") / "folder"
    (place / "wheels").mkdir(parents=True)
    draw = random.Random(0)
    (place / "wheels" / "large.whl").write_bytes(draw.randbytes(3 * MIB + 17))
    (place / "wheels" / "small.whl").write_bytes(draw.randbytes(11))
    (place / "empty").touch()
    (place / "linked").symlink_to(place / "wheels" / "small.whl")
    model = place.with_name("model") / "below"
    model.mkdir(parents=True)
    (model / "weights").write_bytes(draw.randbytes(13))
    (place / "model").symlink_to(model.parent)
    return place


@pytest.fixture
def parts(folder: Path, tmp_path: Path) -> list[Path]:
    done = parcel("split", folder, tmp_path / "parts", "--size", 1)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    places = [Path(name) / file for name, _, files in os.walk(folder, followlinks=True) for file in files]
    return {str(path.relative_to(folder)): path.read_bytes() for path in places}


def test_parts_come_one_by_one_in_any_order_and_twice(folder: Path, parts: list[Path], tmp_path: Path) -> None:
    assert [part.stat().st_size for part in parts[:-1]] == [MIB] * 3
    manifest, place = parts[0].parent / "parcel.json", tmp_path / "there"
    left = {part.name for part in parts}
    for part in [*reversed(parts[1:]), parts[-1]]:
        joined = parcel("join", place, part, "--manifest", manifest)
        left.discard(part.name)
        assert (joined.returncode, joined.stdout) == (3, f"missing: {', '.join(sorted(left))}\n"), joined.stderr
    for _ in range(2):
        joined = parcel("join", place, parts[0], "--manifest", manifest)
        assert (joined.returncode, joined.stdout) == (0, f"whole: {place / 'whole'}\n"), joined.stderr
    assert content(place / "whole") == content(folder)
    assert (place / "whole" / "model" / "below" / "weights").stat().st_size == 13
    assert [path.name for path in place.iterdir()] == ["whole"], "what was joined takes no room twice"


def test_a_part_that_broke_on_the_way_is_not_taken_in(parts: list[Path], tmp_path: Path) -> None:
    manifest, place = parts[0].parent / "parcel.json", tmp_path / "there"
    parts[1].write_bytes(parts[1].read_bytes()[:-1] + b"?")
    refused = parcel("join", place, *parts, "--manifest", manifest)
    assert refused.returncode == 1
    assert (
        f"Expected {parts[1]} with SHA-256 {json.loads(manifest.read_text())['parts'][1]['sha256']}" in refused.stderr
    )
    assert parcel("join", place, "--manifest", manifest).stdout == "missing: part-001, part-002, part-003\n"


def test_a_part_of_another_parcel_and_a_full_folder_are_refused(
    folder: Path, parts: list[Path], tmp_path: Path
) -> None:
    other = parts[0].rename(tmp_path / "part-100")
    refused = parcel("join", tmp_path / "there", other, "--manifest", parts[0].parent / "parcel.json")
    assert "belongs to another parcel" in refused.stderr
    assert "Expected an empty folder" in parcel("split", folder, parts[0].parent).stderr
    assert "Expected a folder to split" in parcel("split", tmp_path / "absent", tmp_path / "new").stderr
