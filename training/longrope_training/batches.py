"""Micro-batches: one row each, with the name of its rope and how many tokens of its step count."""

from itertools import cycle, islice
from typing import Any

import torch
from torch.utils.data import Dataset

from longrope_training.data.rows import Row, Rows
from longrope_training.data.schedule import Schedule

OWN = "own"
"""Rope of rows of short documents: that of the checkpoint as it was, frequencies and magnitude."""


def rope_of_stage(stage: int) -> str:
    """Name of the rope of long rows of ``stage``, counted from 0."""
    return f"stage {stage + 1}"


class Batches(Dataset[dict[str, Any]]):
    """What the model is given, by number of the row in the run."""

    def __init__(self, rows: Rows, schedule: Schedule) -> None:
        """``rows`` are those of ``schedule``."""
        self._rows = rows
        self._schedule = schedule

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """``input_ids``, ``position_ids`` and ``labels`` [1, T]; ``rope``, a name; ``step_targets``, a number."""
        row = self._rows[number]
        rope = OWN if row.slot.kind == "short" else rope_of_stage(row.slot.stage)
        return _tensors(row) | {"rope": rope, "step_targets": self._rows.step_targets(number // self._schedule.batch)}


class Beginnings(Dataset[dict[str, Any]]):
    """The first tokens of the first long rows, under the checkpoint's own rope: what it can do within its window."""

    def __init__(self, rows: Rows, schedule: Schedule, *, tokens: int, count: int) -> None:
        """``tokens`` of each of ``count`` rows."""
        long = (number for number in range(len(rows)) if schedule.slot(number).kind == "long")
        self._numbers = list(islice(cycle(islice(long, count)), count))  # a short run has fewer
        self._rows = rows
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """As ``Batches`` gives them."""
        found = _tensors(self._rows[self._numbers[number]]) | {"position_ids": torch.arange(self._tokens)[None]}
        return {name: values[:, : self._tokens] for name, values in found.items()} | {"rope": OWN, "step_targets": 1}


def _tensors(row: Row) -> dict[str, Any]:
    return {"input_ids": row.tokens[None], "position_ids": row.positions[None], "labels": row.labels[None]}
