"""Prepared text on disk: one stream of tokens for the long rows and one for the short ones, each with its documents.

    long.tokens     uint32, the tokens of all documents, one after the other
    long.starts     int64, where each document begins in ``long.tokens``
    long.origins    uint32, two a document: the number of its source in the recipe, and the pass over it
    data.json       what it was made from and what came out; written last, so that a folder with it is complete

The same again for ``short``. All numbers are little-endian. ``prepare`` writes these files.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope_training.data.schedule import Kind
from longrope_training.recipe import DataSource
from longrope_vllm.errors import TrainingError

KINDS: tuple[Kind, ...] = ("long", "short")
COMPLETE = "data.json"
TOKEN, START, ORIGIN = np.dtype("<u4"), np.dtype("<i8"), np.dtype("<u4")
FILES: dict[str, np.dtype[Any]] = {"tokens": TOKEN, "starts": START, "origins": ORIGIN}
"""What each is a row of, by the ending of its name."""

MadeFrom = dict[str, Any]
"""All that decides the data, by the words a person has for it; as JSON has it."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the files of one stream."""

    tokens: int = 0
    documents: int = 0

    def entries(self) -> dict[str, int]:
        """Numbers in each file, by the ending of its name."""
        return {"tokens": self.tokens, "starts": self.documents, "origins": 2 * self.documents}


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What one source gave to the rows of one kind."""

    source: str
    kind: Kind
    documents: int
    """Pieces of documents where the rows are short."""
    tokens: int
    passes: int
    """Times that it was begun."""
    shortest: int
    median: float
    longest: int
    """Tokens of its documents."""
    share: float
    """Of the tokens of this kind."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """The documents for the rows of one kind; arrays lie on disk and are read-only."""

    tokens: NDArray[np.uint32]
    """Shape [N]."""
    starts: NDArray[np.int64]
    """Shape [D], ascending, the first is 0."""
    origins: NDArray[np.uint32]
    """Shape [D, 2]: source and pass."""

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, int64, shape [D]."""
        return np.diff(self.starts, append=len(self.tokens))


@dataclass(frozen=True, kw_only=True, eq=False)
class Streams:
    """All the data of a run. A process that gets it pickled opens the files again."""

    folder: Path
    identity: str
    """Hash of all that decides the data."""
    long: Stream
    short: Stream
    portions: tuple[Portion, ...]
    """By source in the order of the recipe, long before short; those without a document are left out."""

    @classmethod
    def at(cls, folder: Path) -> "Streams":
        """The complete data in ``folder``. Raises ``TrainingError`` when it is not complete."""
        found = read_state(folder / COMPLETE)
        if found is None:
            raise TrainingError(f"Expected prepared data in {folder}, found no {COMPLETE}: prepare it first.")
        return cls(
            folder=folder,
            identity=identity(found["made_from"]),
            long=open_stream(folder, "long", Sizes(**found["sizes"]["long"])),
            short=open_stream(folder, "short", Sizes(**found["sizes"]["short"])),
            portions=tuple(Portion(**portion) for portion in found["portions"]),
        )

    def of(self, kind: Kind) -> Stream:
        """The stream for rows of ``kind``."""
        return {"long": self.long, "short": self.short}[kind]

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Streams.at, (self.folder,)  # else a worker would be sent all tokens


def identity(made_from: MadeFrom) -> str:
    """Hash of ``made_from``."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def read_state(path: Path) -> dict[str, Any] | None:
    """What ``path`` says of the data beside it; None when there is no such file. Raises ``TrainingError``."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"Expected the state of prepared data in {path}, found: {error}.") from None
    if not isinstance(found, dict) or "made_from" not in found:
        raise TrainingError(f"Expected the state of prepared data in {path}, found another file: remove it.")
    return found


def check_made_from(folder: Path, found: MadeFrom, wanted: MadeFrom) -> None:
    """Raise ``TrainingError`` naming what is different, unless ``folder`` holds the data that is wanted."""
    different = [name for name in wanted if found.get(name) != wanted[name]]
    if different or len(found) != len(wanted):
        raise TrainingError(
            f"Expected data of this recipe in {folder}, found data of another {', '.join(different) or 'version'}: "
            "name another out, or remove that folder to prepare it again."
        )


def open_stream(folder: Path, kind: Kind, sizes: Sizes) -> Stream:
    """The stream of ``kind`` in ``folder``. Raises ``TrainingError`` for files of other sizes."""
    arrays: dict[str, NDArray[Any]] = {}
    for ending, entries in sizes.entries().items():
        path, dtype = folder / f"{kind}.{ending}", FILES[ending]
        size = path.stat().st_size if path.exists() else 0
        if size != entries * dtype.itemsize:
            raise TrainingError(
                f"Expected {entries * dtype.itemsize:,} bytes in {path}, found {size:,}: remove {folder} to prepare it "
                "again."
            )
        # An empty file cannot be mapped.
        arrays[ending] = np.memmap(path, dtype=dtype, mode="r") if entries else np.empty(0, dtype=dtype)
    return Stream(tokens=arrays["tokens"], starts=arrays["starts"], origins=arrays["origins"].reshape(-1, 2))


def portions(streams: dict[Kind, Stream], sources: Sequence[DataSource]) -> list[Portion]:
    """What each of ``sources`` gave to each stream, as far as it gave something."""
    found = []
    of_all = {kind: stream.lengths() for kind, stream in streams.items()}
    for number, source in enumerate(sources):
        for kind, stream in streams.items():
            own = stream.origins[:, 0] == number
            lengths = of_all[kind][own]
            if not len(lengths):
                continue
            found.append(
                Portion(
                    source=source.source,
                    kind=kind,
                    documents=len(lengths),
                    tokens=int(lengths.sum()),
                    passes=int(stream.origins[own, 1].max()) + 1,
                    shortest=int(lengths.min()),
                    median=float(np.median(lengths)),
                    longest=int(lengths.max()),
                    share=float(lengths.sum() / len(stream.tokens)),
                )
            )
    return found
