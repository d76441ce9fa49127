"""Which row of a run is what; rows are numbered from 0 on, and step k takes the ``batch`` rows from k × batch on.

Short rows (mixed context window training: LongRoPE2, arXiv 2502.20082, section 3.3) are spread evenly over each stage:
with share s, row m of a stage is short where floor((m + 1) s) > floor(m s). Of any n first rows, floor(n s) are short.
"""

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import Literal

from longrope_training.recipe import Positions, Recipe, at_least

Kind = Literal["long", "short"]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One row of the run, before it has tokens."""

    kind: Kind
    stage: int
    """Number of its stage."""
    length: int
    """Tokens that the row holds."""
    number: int
    """Rows of the same kind before it, in the whole run."""


@dataclass(frozen=True, kw_only=True)
class StageRows:
    """The rows of one stage."""

    steps: int
    span: int
    """Positions that its long rows reach over: the length of the stage."""
    length: int
    """Tokens of each of its rows, long or short."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All rows of a run."""

    stages: tuple[StageRows, ...]
    batch: int
    """Rows of a step."""
    short_share: Fraction
    window: int
    """Trained window of the checkpoint: no short document is longer."""
    positions: Positions

    @classmethod
    def of(cls, recipe: Recipe, *, window: int) -> "Schedule":
        """The rows of ``recipe`` for a checkpoint with a trained window of ``window`` tokens.

        With ``pose`` no row holds more tokens than the window, whatever the length of its stage. Raises
        ``TrainingError`` for a window of less than 2 tokens.
        """
        at_least("trained window", window, 2)
        longest = window if recipe.positions == "pose" else max(stage.length for stage in recipe.stages)
        return cls(
            stages=tuple(
                StageRows(steps=stage.steps, span=stage.length, length=min(stage.length, longest))
                for stage in recipe.stages
            ),
            batch=recipe.batch,
            short_share=Fraction(str(recipe.short_share)),  # what the user wrote: 0.1 is a tenth, the float is not
            window=window,
            positions=recipe.positions,
        )

    def __len__(self) -> int:
        """Rows of the run."""
        return self.steps * self.batch

    @property
    def steps(self) -> int:
        """Of all stages."""
        return self._steps_before[-1]

    def stage_of(self, step: int) -> int:
        """The stage that ``step`` belongs to. Raises ``IndexError`` beyond the last step."""
        if not 0 <= step < self.steps:
            raise IndexError(f"Expected a step from 0 to {self.steps - 1}, found {step}.")
        return bisect_right(self._steps_before, step) - 1

    def slot(self, row: int) -> Slot:
        """What ``row`` is. Raises ``IndexError`` beyond the last row."""
        if not 0 <= row < len(self):
            raise IndexError(f"Expected a row from 0 to {len(self) - 1}, found {row}.")
        stage = self.stage_of(row // self.batch)
        place = row - self._steps_before[stage] * self.batch
        short = self._short(place)
        if self._short(place + 1) > short:
            kind: Kind = "short"
            number = self._rows_before["short"][stage] + short
        else:
            kind = "long"
            number = self._rows_before["long"][stage] + place - short
        return Slot(kind=kind, stage=stage, length=self.stages[stage].length, number=number)

    def rows(self, kind: Kind) -> int:
        """Rows of ``kind`` in the run."""
        return self._rows_before[kind][-1]

    def first(self, kind: Kind, stage: int) -> int:
        """Rows of ``kind`` before ``stage``: the number of its first."""
        return self._rows_before[kind][stage]

    def rows_of(self, kind: Kind, stage: int) -> int:
        """Rows of ``kind`` in ``stage``."""
        return self._rows[kind][stage]

    def tokens(self, kind: Kind) -> int:
        """Tokens of all rows of ``kind``."""
        return self._tokens_before[kind][-1]

    def tokens_until(self, step: int) -> int:
        """Tokens of all rows of the steps before ``step``."""
        steps = [
            min(max(step - before, 0), stage.steps)
            for before, stage in zip(self._steps_before, self.stages, strict=False)
        ]
        return sum(count * self.batch * stage.length for count, stage in zip(steps, self.stages, strict=True))

    def start(self, slot: Slot) -> int:
        """Tokens of all rows of the same kind before ``slot``: where it begins in the stream of its kind."""
        rows = slot.number - self._rows_before[slot.kind][slot.stage]
        return self._tokens_before[slot.kind][slot.stage] + rows * slot.length

    def _short(self, rows: int) -> int:
        """Short ones of the first ``rows`` rows of a stage; exact, for drifting floats would move rows."""
        return rows * self.short_share.numerator // self.short_share.denominator

    @cached_property
    def _steps_before(self) -> tuple[int, ...]:
        """Steps before each stage, and of all."""
        return tuple(accumulate((stage.steps for stage in self.stages), initial=0))

    @cached_property
    def _rows(self) -> dict[Kind, tuple[int, ...]]:
        """Rows of each stage."""
        rows = [stage.steps * self.batch for stage in self.stages]
        return {
            "long": tuple(count - self._short(count) for count in rows),
            "short": tuple(self._short(count) for count in rows),
        }

    @cached_property
    def _rows_before(self) -> dict[Kind, tuple[int, ...]]:
        return {kind: tuple(accumulate(rows, initial=0)) for kind, rows in self._rows.items()}

    @cached_property
    def _tokens_before(self) -> dict[Kind, tuple[int, ...]]:
        return {
            kind: tuple(
                accumulate((count * stage.length for count, stage in zip(rows, self.stages, strict=True)), initial=0)
            )
            for kind, rows in self._rows.items()
        }
