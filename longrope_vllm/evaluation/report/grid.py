"""Estimates laid out by method, length and group: what a table and a figure of one task are made from.

A cell that was not measured, because the run was interrupted or a model cannot do it, is missing and stays missing. A
cell with fewer samples than another method has at the same place is partial: the two are not yet comparable.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.report.confidence import Estimate

ALL = ""
"""The group that stands for all groups together."""

Estimator = Callable[[Sequence[Record]], Estimate]
"""Makes a cell from its records, which are at least one."""


class Place(NamedTuple):
    """Where a cell is."""

    method: str
    length: int
    group: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Cells of one figure. Methods and groups in the order in which they were first measured, lengths ascending."""

    methods: tuple[str, ...]
    lengths: tuple[int, ...]
    groups: tuple[str, ...]
    cells: Mapping[Place, Estimate]

    def at(self, method: str, length: int, group: str = ALL) -> Estimate | None:
        """The cell, None where it is missing."""
        return self.cells.get(Place(method, length, group))

    def is_partial(self, method: str, length: int, group: str = ALL) -> bool:
        """Whether another method has more samples at the same length and group."""
        cell = self.at(method, length, group)
        return cell is not None and cell.samples < self.most_samples(length, group)

    def most_samples(self, length: int, group: str = ALL) -> int:
        """Samples of the method that has most of them at ``length``."""
        return max((cell.samples for place, cell in self.cells.items() if place[1:] == (length, group)), default=0)

    def without_partial(self) -> "Grid":
        """The cells that can be drawn beside each other: those with as many samples as any other at their place."""
        whole = {place: cell for place, cell in self.cells.items() if not self.is_partial(place.method, *place[1:])}
        return replace(
            self,
            methods=tuple(method for method in self.methods if any(place.method == method for place in whole)),
            cells=whole,
        )

    @property
    def panels(self) -> tuple[str, ...]:
        """Groups that are shown: each, and ``ALL`` first where it says something else than the only group."""
        has_all = any(place.group == ALL for place in self.cells)
        return (ALL, *self.groups) if has_all and len(self.groups) > 1 else self.groups


def grid(records: Iterable[Record], each: Estimator, overall: Estimator | None) -> Grid | None:
    """A grid with a cell of ``each`` for every group, and of ``overall`` for all of them; None without records."""
    found = tuple(records)
    if not found:
        return None
    by_place: dict[Place, list[Record]] = {}
    for record in found:
        places = [Place(*record.key[1:4])] + ([Place(*record.key[1:3], ALL)] if overall else [])
        for place in dict.fromkeys(places):
            by_place.setdefault(place, []).append(record)
    cells = {place: overall(own) if overall and place.group == ALL else each(own) for place, own in by_place.items()}
    return Grid(
        methods=tuple(dict.fromkeys(record.key.method for record in found)),
        lengths=tuple(sorted({record.key.length for record in found})),
        groups=tuple(dict.fromkeys(record.key.group for record in found)),
        cells=cells,
    )
