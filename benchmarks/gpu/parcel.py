"""Carry a folder in parts of bounded size to a machine that takes no more at a time, and join them there.

    python benchmarks/gpu/parcel.py split FOLDER PARTS [--size 60]         # MiB of a part
    python benchmarks/gpu/parcel.py join PLACE PART... --manifest PARTS/parcel.json

``split`` writes ``PARTS/parcel.json`` with the SHA-256 of each part beside the parts. ``join`` may be called with one
part after the other, in any order, as often as need be: it keeps in PLACE what has arrived whole, says what is missing
(exit code 3), and once all are there, makes ``PLACE/whole``, the folder. Standard library alone.
"""

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

MANIFEST = "parcel.json"
MISSING = 3
"""Exit code while parts are still to come."""
_BLOCK = 1 << 20


class Splitting(io.RawIOBase):
    """A file to write to, which becomes files of at most ``size`` bytes."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._part: BinaryIO | None = None
        self._room = 0
        self.parts: list[Path] = []

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """All of ``data``."""
        rest = memoryview(data)
        while rest:
            if self._part is None or self._room == 0:
                self._next()
            assert self._part is not None
            taken = self._part.write(rest[: self._room])
            self._room -= taken
            rest = rest[taken:]
        return len(data)

    def _next(self) -> None:
        if self._part is not None:
            self._part.close()
        self.parts.append(self._folder / f"part-{len(self.parts):03d}")
        self._part, self._room = self.parts[-1].open("wb"), self._size

    def close(self) -> None:
        """The part that is being written."""
        if self._part is not None:
            self._part.close()
        super().close()


class Joined(io.RawIOBase):
    """The content of files one after the other, to read from."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._rest = list(parts)
        self._part: BinaryIO = io.BytesIO()

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """The next bytes; 0 at the end of the last part."""
        while not (read := self._part.readinto(buffer)) and self._rest:  # type: ignore[attr-defined]
            self._part.close()
            self._part = self._rest.pop(0).open("rb")
        return int(read)

    def close(self) -> None:
        """The part that is being read."""
        self._part.close()
        super().close()


def split(folder: Path, parts: Path, *, size: int) -> list[Path]:
    """Parts of at most ``size`` bytes in the folder ``parts``, which is empty or new, and their manifest."""
    if not folder.is_dir():
        sys.exit(f"Expected a folder to split, found none at {folder}.")
    if parts.exists() and any(parts.iterdir()):
        sys.exit(f"Expected an empty folder for the parts, found files in {parts}: remove it, or name another.")
    parts.mkdir(parents=True, exist_ok=True)
    with Splitting(parts, size) as file:
        with tarfile.open(fileobj=file, mode="w|", dereference=True) as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, arcname=path.name)  # with what is in folders, and in those that links lead to
        made = file.parts
    stated = [{"name": part.name, "bytes": part.stat().st_size, "sha256": sha256(part)} for part in made]
    (parts / MANIFEST).write_text(json.dumps({"format": 1, "parts": stated}, indent=2) + "\n")
    return made


def join(place: Path, arrived: Sequence[Path], manifest: Path) -> list[str]:
    """Take in parts; names of those that are still missing, none once ``place/whole`` is there."""
    stated = {part["name"]: part for part in json.loads(manifest.read_text())["parts"]}
    whole = place / "whole"
    if whole.is_dir():
        return []
    place.mkdir(parents=True, exist_ok=True)
    for part in arrived:
        if part.name not in stated:
            sys.exit(f"Expected a part of {manifest}, found {part}: it belongs to another parcel.")
        if sha256(part) != stated[part.name]["sha256"]:
            sys.exit(f"Expected {part} with SHA-256 {stated[part.name]['sha256']}, found another: carry it again.")
        unfinished = place / f".{part.name}"
        shutil.copyfile(part, unfinished)
        unfinished.replace(place / part.name)
    missing = [name for name in stated if not (place / name).exists()]
    if missing:
        return missing
    unfinished = place / ".whole"
    shutil.rmtree(unfinished, ignore_errors=True)
    with (
        io.BufferedReader(Joined([place / name for name in stated]), _BLOCK) as file,
        tarfile.open(fileobj=file, mode="r|") as archive,
    ):
        archive.extractall(unfinished, filter="data")
    unfinished.rename(whole)
    for name in stated:
        (place / name).unlink()
    return []


def sha256(path: Path) -> str:
    """Of the content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Split or join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    does = parser.add_subparsers(dest="does", required=True)
    splits = does.add_parser("split")
    splits.add_argument("folder", type=Path)
    splits.add_argument("parts", type=Path)
    splits.add_argument("--size", type=int, default=60, help="MiB of a part (60)")
    joins = does.add_parser("join")
    joins.add_argument("place", type=Path)
    joins.add_argument("arrived", type=Path, nargs="*", metavar="PART")
    joins.add_argument("--manifest", type=Path, required=True)
    asked = parser.parse_args()
    if asked.does == "split":
        for part in split(asked.folder, asked.parts, size=asked.size * _BLOCK):
            print(part)
        return 0
    missing = join(asked.place, asked.arrived, asked.manifest)
    print(f"missing: {', '.join(missing)}" if missing else f"whole: {asked.place / 'whole'}")
    return MISSING if missing else 0


if __name__ == "__main__":
    sys.exit(main())
