"""The files of one stream while they grow: appended to, brought to disk, cut back to what is known to be good."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from longrope_training.data.schedule import Kind
from longrope_training.data.sources import Document
from longrope_training.data.streams import FILES, ORIGIN, START, TOKEN, Sizes
from longrope_vllm.errors import TrainingError


class Writer:
    """Appends documents to a stream."""

    def __init__(self, folder: Path, kind: Kind, *, sizes: Sizes, piece: int | None, files: ExitStack) -> None:
        """Cut the files of ``kind`` to ``sizes`` and stand at their ends; ``files`` closes them.

        ``piece`` is the most tokens that stay one document; None keeps documents whole. Raises ``TrainingError`` for
        files that are shorter than ``sizes``, and ``OSError``.
        """
        self.sizes = sizes
        self._piece = piece
        self._files: dict[str, BinaryIO] = {}
        for ending, entries in sizes.entries().items():
            path = folder / f"{kind}.{ending}"
            # Unbuffered: what a full disk does not take is told at once, and never again when the file is closed.
            file = self._files[ending] = files.enter_context(path.open("ab", buffering=0))
            size, good = path.stat().st_size, entries * FILES[ending].itemsize
            if size < good:
                raise TrainingError(
                    f"Expected {good:,} bytes or more in {path}, found {size:,}: remove {folder} to prepare it again."
                )
            file.truncate(good)

    def add(self, document: Document, *, source: int, room: int) -> int:
        """Append as much of ``document`` as there is room for; the number of tokens written."""
        pieces = []
        size = self._piece or len(document.tokens)
        for begin in range(0, len(document.tokens), size):
            piece = document.tokens[begin : begin + size]
            if room == 0 or len(piece) < 2:  # a single token at the end of a document has nothing to predict
                break
            pieces.append(piece[:room])
            room -= len(pieces[-1])
        lengths = [len(piece) for piece in pieces]
        starts = self.sizes.tokens + np.cumsum([0, *lengths[:-1]])
        _write(self._files["tokens"], np.concatenate(pieces).astype(TOKEN).tobytes())
        _write(self._files["starts"], starts.astype(START).tobytes())
        _write(self._files["origins"], np.tile(np.array([source, document.turn], ORIGIN), len(pieces)).tobytes())
        self.sizes = Sizes(tokens=self.sizes.tokens + sum(lengths), documents=self.sizes.documents + len(pieces))
        return sum(lengths)

    def sync(self) -> None:
        """Return once all bytes are on disk."""
        for file in self._files.values():
            os.fsync(file.fileno())


def _write(file: BinaryIO, data: bytes) -> None:
    """All of ``data``: a disk that fills up takes a part, and refuses the rest."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
