"""Rows as a model is trained on them: tokens, positions and labels, the same in whatever order they are read.

T = tokens of a row.

long     T tokens one after the other from the long stream, positions 0 … T-1, one segment across the documents in it
short    as many from the short stream; positions begin at 0 at the first token of each document and of the row, so that
         a document that the row's end cuts goes on as one of its own (LongRoPE2, arXiv 2502.20082, section 3.3)
pose     a long row in two chunks with a jump of positions between them (PoSE, arXiv 2309.10400, section 3)

No row has padding. The rows of a stage come in an order of their own, which the seed decides.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from longrope_training.data.schedule import Kind, Schedule, Slot
from longrope_training.data.streams import KINDS, Streams
from longrope_training.model.loss_head import IGNORED


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One row."""

    slot: Slot
    tokens: Tensor
    """Ids, int64, shape [T]."""
    positions: Tensor
    """int64, shape [T]."""
    labels: Tensor
    """The tokens again, int64, shape [T], unshifted; ``IGNORED`` at the first token of each segment."""

    @property
    def targets(self) -> int:
        """Tokens that are to be predicted."""
        return int((self.labels != IGNORED).sum())


class Rows(Dataset[Row]):
    """All rows of a run by their numbers. Pickled, it opens the streams again."""

    def __init__(self, streams: Streams, schedule: Schedule, *, seed: int) -> None:
        """``streams`` are those that were prepared for ``schedule``; ``seed`` is the recipe's."""
        assert all(len(streams.of(kind).tokens) == schedule.tokens(kind) for kind in KINDS), "prepared for another"
        self._streams, self._schedule, self._seed = streams, schedule, seed
        self._orders: dict[tuple[Kind, int], list[int]] = {}

    def __len__(self) -> int:
        return len(self._schedule)

    def __getitem__(self, row: int) -> Row:
        """Raises ``IndexError`` beyond the last row."""
        slot = self._schedule.slot(row)
        start = self.begin(slot)
        found = self._streams.of(slot.kind).tokens[start : start + slot.length]
        tokens = torch.from_numpy(found.astype(np.int64))  # [T]
        segments = self._segments(slot)
        labels = tokens.clone()
        labels[torch.from_numpy(segments)] = IGNORED
        return Row(slot=slot, tokens=tokens, positions=self._positions(slot, segments), labels=labels)

    def step_targets(self, step: int) -> int:
        """Tokens to be predicted in all rows of ``step``: known without reading a token."""
        batch = self._schedule.batch
        slots = [self._schedule.slot(row) for row in range(step * batch, (step + 1) * batch)]
        return sum(slot.length - len(self._segments(slot)) for slot in slots)

    def begin(self, slot: Slot) -> int:
        """Where the row begins in its stream: rows of a stage are shuffled, for neighbours are of one document."""
        order = self._orders.setdefault((slot.kind, slot.stage), [])
        if not order:
            order.extend(range(self._schedule.rows_of(slot.kind, slot.stage)))
            random.Random(f"order/{self._seed}/{slot.kind}/{slot.stage}").shuffle(order)
        first = self._schedule.first(slot.kind, slot.stage)
        return self._schedule.start(replace(slot, number=first + order[slot.number - first]))

    def _segments(self, slot: Slot) -> NDArray[np.int64]:
        """Where segments begin in the row, int64, shape [S]; the first is 0."""
        if slot.kind == "long":
            return np.zeros(1, dtype=np.int64)
        start = self.begin(slot)
        starts = self._streams.short.starts
        first, end = np.searchsorted(starts, [start, start + slot.length], side="left")
        within = starts[first:end] - start  # documents that begin in the row
        return within if len(within) and within[0] == 0 else np.concatenate([[0], within])

    def _positions(self, slot: Slot, segments: NDArray[np.int64]) -> Tensor:
        """int64, shape [T]."""
        if slot.kind == "long" and self._schedule.positions == "pose":
            # By the number of the row: the draw does not depend on what was read before.
            draw = random.Random(f"pose/{self._seed}/{slot.number}")
            return pose_positions(slot.length, span=self._schedule.stages[slot.stage].span, draw=draw)
        lengths = np.diff(segments, append=slot.length)
        return torch.from_numpy(np.arange(slot.length) - np.repeat(segments, lengths))


def pose_positions(length: int, *, span: int, draw: random.Random) -> Tensor:
    """``length`` positions below ``span`` in two chunks, int64, shape [T] (arXiv 2309.10400, section 3.2, N = 2).

    The row is split at random; the first chunk begins at 0; the second is moved by u, uniform from 0 to span - length.
    Both keep the order and the distance of their tokens. Left out: text that is skipped as well (v in the paper).
    """
    assert 2 <= length <= span, "a schedule has no other rows"
    split = draw.randint(1, length - 1)
    skip = draw.randint(0, span - length)
    positions = torch.arange(length)
    positions[split:] += skip
    return positions
