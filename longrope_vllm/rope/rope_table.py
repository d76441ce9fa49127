"""A table of cos and sin for millions of positions in a few thousand rows, read by angle addition.

Positions are taken in blocks of ``BLOCK``. The angle at position ``b BLOCK + i`` is that of the block's first position
plus that of ``i``, so one row a block and one block of rows hold them all:

    cos(a + s) = cos a cos s - sin a sin s,    sin(a + s) = sin a cos s + cos a sin s

Two million positions of head size 128 take 1.6 MB instead of 1 GiB in float32. Angles are computed in float64, rows are
float32, and so is the addition: an element is off by a few 2⁻²⁴. A block may also hold rows of its own, added to the
angle 0, which gives them back to the last bit: start tokens, and ropes that must equal somebody else's rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from longrope_vllm.rope.tables import cos_sin_rows

BLOCK = 1024
"""Positions of a block: near the square root of two million, where turns and steps together are fewest."""


@dataclass(frozen=True, kw_only=True)
class RopeTable:
    """Position ``r`` of the table is row ``turns[r // BLOCK]`` turned on by row ``steps[r // BLOCK] + r % BLOCK``."""

    rows: Tensor
    """[R, 2 P] float32, ``[cos | sin]``; the steps hold the magnitude."""
    turns: Tensor
    """[blocks] int64: the row with the angle of each block's first position."""
    steps: Tensor
    """[blocks] int64: the row of position 0 within each block; the others follow it."""

    @classmethod
    def of_frequencies(cls, frequencies: Tensor, length: int, *, attention_factor: float = 1.0) -> Self:
        """Rows of ``frequencies`` [P] (float64, radians a token) for at least ``length`` positions."""
        blocks = blocks_of(length)
        steps = cos_sin_rows(frequencies, BLOCK, attention_factor=attention_factor)
        turns = cos_sin_rows(frequencies * BLOCK, blocks)
        return cls(
            rows=torch.cat([steps, turns]),
            turns=torch.arange(BLOCK, BLOCK + blocks),
            steps=torch.zeros(blocks, dtype=torch.int64),
        )

    @classmethod
    def of_rows(cls, rows: Tensor) -> Self:
        """``rows`` [N, 2 P] as they are, the last one repeated to the end of its block."""
        length, width = rows.shape
        blocks = blocks_of(length)
        unturned = rows.new_zeros(1, width, dtype=torch.float32)
        unturned[:, : width // 2] = 1.0
        padding = rows[-1:].expand(blocks * BLOCK - length, -1)
        return cls(
            rows=torch.cat([unturned, rows.float(), padding.float()]),
            turns=torch.zeros(blocks, dtype=torch.int64),
            steps=torch.arange(1, 1 + blocks * BLOCK, BLOCK),
        )

    @classmethod
    def joined(cls, tables: Sequence[Self]) -> Self:
        """``tables`` one after the other: each begins at a block, ``BLOCK`` times the number of blocks before it."""
        firsts = torch.tensor([0, *(table.rows.shape[0] for table in tables)]).cumsum(0).tolist()
        return cls(
            rows=torch.cat([table.rows for table in tables]),
            turns=torch.cat([table.turns + first for table, first in zip(tables, firsts, strict=False)]),
            steps=torch.cat([table.steps + first for table, first in zip(tables, firsts, strict=False)]),
        )

    def from_block(self, first: int) -> Self:
        """The table without the blocks before ``first``; they keep their rows."""
        return type(self)(rows=self.rows, turns=self.turns[first:], steps=self.steps[first:])

    @property
    def length(self) -> int:
        """Positions that can be read."""
        return self.turns.shape[0] * BLOCK

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def read(self, positions: Tensor) -> Tensor:
        """Rows ``[cos | sin]`` at ``positions`` [...] (integers), shape [..., 2 P] float32: the oracle of the kernels.

        A position outside the table reads its nearest end.
        """
        inside = positions.clamp(0, self.length - 1)
        block, within = inside // BLOCK, inside % BLOCK
        turn_cos, turn_sin = self.rows[self.turns[block]].chunk(2, dim=-1)  # [..., P]
        step_cos, step_sin = self.rows[self.steps[block] + within].chunk(2, dim=-1)
        return torch.cat((turn_cos * step_cos - turn_sin * step_sin, turn_sin * step_cos + turn_cos * step_sin), dim=-1)


def blocks_of(length: int) -> int:
    """Blocks that hold ``length`` positions."""
    return -(-length // BLOCK)
