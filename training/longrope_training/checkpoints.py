"""Checkpoints of a run: complete or not there, and never the last good one gone.

A checkpoint is written into a folder of another name, which is sealed by a list of its files with their sizes and
renamed when all of it is on disk. Older ones are removed only then. On the way back the newest is taken whose files
are those of its list; a torn one, from a fault of the disk, is passed over.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longrope_vllm.atomic import write_atomically

_SEAL = "sealed.json"
_PIECE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints in one folder."""

    folder: Path
    keep: int
    """How many are kept."""

    @property
    def staging(self) -> Path:
        """Where the next one is written."""
        return self.folder / "unfinished"

    def seal(self, step: int) -> Path:
        """Make what was written below ``staging`` the checkpoint of ``step``, and remove the oldest ones.

        Raises ``OSError`` when the disk is full; what was there before stays.
        """
        (written,) = self.staging.iterdir()
        files = sorted(path for path in written.rglob("*") if path.is_file())
        for path in files:
            _to_disk(path)
        listed = {str(path.relative_to(written)): [path.stat().st_size, _checksum(path)] for path in files}
        write_atomically(written / _SEAL, json.dumps(listed, indent=1))
        place = self.at(step)
        if place.exists():  # a torn one of the same step
            shutil.rmtree(place)
        written.rename(place)
        _to_disk(self.folder)
        later = [other for number, other in self._all() if number > step]  # torn, or this step would not be made again
        older = [other for _, other in sorted(self._all(), reverse=True) if other not in later][self.keep :]
        for old in (*later, *older):
            shutil.rmtree(old)
        return place

    def at(self, step: int) -> Path:
        """The folder of the checkpoint of ``step``."""
        return self.folder / f"step-{step}"

    def newest(self) -> Path | None:
        """The newest complete one, if any."""
        return next((place for _, place in sorted(self._all(), reverse=True) if is_whole(place)), None)

    def torn(self) -> list[Path]:
        """Those that lost files, or parts of them."""
        return [place for _, place in sorted(self._all()) if not is_whole(place)]

    def clear_staging(self) -> None:
        """Remove what an interrupted run had begun to write."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def _all(self) -> Iterator[tuple[int, Path]]:
        for place in self.folder.glob("step-*"):
            yield int(place.name.removeprefix("step-")), place


def step_of(checkpoint: Path) -> int:
    """The step after which ``checkpoint`` was made."""
    return int(checkpoint.name.removeprefix("step-"))


def is_whole(checkpoint: Path) -> bool:
    """True when every file of the list is there with its content."""
    try:
        listed = json.loads((checkpoint / _SEAL).read_text())
        return all(
            (checkpoint / name).stat().st_size == size and _checksum(checkpoint / name) == checksum
            for name, (size, checksum) in listed.items()
        )
    except (OSError, ValueError):
        return False


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found = zlib.crc32(piece, found)
    return found


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
