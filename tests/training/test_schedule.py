"""Oracle: the definition of a schedule, counted out row by row."""

from fractions import Fraction
from math import floor
from pathlib import Path

import pytest
from made_text import WINDOW, recipe

from longrope_training.data.schedule import Schedule
from longrope_training.recipe import DataSource, Stage
from longrope_vllm.errors import TrainingError

STAGES = (Stage(length=64, steps=3), Stage(length=100, steps=7), Stage(length=128, steps=2))


def schedule(root: Path, **asked: object) -> Schedule:
    return Schedule.of(recipe(root, DataSource(source="stdlib"), **{"stages": STAGES, **asked}), window=WINDOW)


@pytest.mark.parametrize("share", [0, 0.0, 0.1, 0.3, 0.5, 0.7, 0.99, 1e-05])
def test_short_rows_are_spread_as_the_definition_says(tmp_path: Path, share: float) -> None:
    found = schedule(tmp_path, short_share=share, batch=5)
    exact = Fraction(str(share))
    kinds = [
        "short" if floor((row + 1) * exact) > floor(row * exact) else "long"
        for stage in STAGES
        for row in range(stage.steps * 5)
    ]
    assert [found.slot(row).kind for row in range(len(found))] == kinds
    assert kinds[0] == "long"


def test_a_share_that_floats_cannot_hold_gives_the_exact_number_of_rows(tmp_path: Path) -> None:
    found = schedule(tmp_path, short_share=0.29, batch=100, stages=(Stage(length=64, steps=1),))
    assert floor(0.29 * 100) == 28  # what floats would say
    assert (found.rows("short"), found.rows("long")) == (29, 71)


def test_numbers_and_starts_count_the_rows_of_a_kind_over_all_stages(tmp_path: Path) -> None:
    found = schedule(tmp_path, short_share=0.3, batch=5)
    for kind in ("long", "short"):
        slots = [slot for slot in map(found.slot, range(len(found))) if slot.kind == kind]
        assert [slot.number for slot in slots] == list(range(found.rows(kind)))
        start = 0
        for slot in slots:
            assert found.start(slot) == start
            start += slot.length
        assert start == found.tokens(kind)


def test_rows_have_the_length_of_their_stage(tmp_path: Path) -> None:
    found = schedule(tmp_path, batch=5)
    stages = [number for number, stage in enumerate(STAGES) for _ in range(stage.steps)]
    assert [found.stage_of(step) for step in range(found.steps)] == stages
    assert [found.slot(row).stage for row in range(len(found))] == [stage for stage in stages for _ in range(5)]
    assert all(found.slot(row).length == STAGES[stages[row // 5]].length for row in range(len(found)))
    assert found.tokens("long") == 5 * sum(stage.length * stage.steps for stage in STAGES)
    assert found.tokens("short") == 0


def test_rows_of_pose_hold_the_trained_window_and_reach_over_the_stage(tmp_path: Path) -> None:
    found = schedule(tmp_path, positions="pose", short_share=0.5)
    assert {found.slot(row).length for row in range(len(found))} == {WINDOW}
    assert [stage.span for stage in found.stages] == [64, 100, 128]
    narrow = schedule(tmp_path, positions="pose", stages=(Stage(length=16, steps=1),))
    assert narrow.slot(0).length == 16


def test_rows_and_steps_beyond_the_run_are_refused(tmp_path: Path) -> None:
    found = schedule(tmp_path)
    for row in (-1, len(found)):
        with pytest.raises(IndexError, match="Expected a row from 0 to 47"):
            found.slot(row)
    for step in (-1, found.steps):
        with pytest.raises(IndexError, match="Expected a step from 0 to 11"):
            found.stage_of(step)


def test_a_window_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Expected trained window of 2 or more, found 1"):
        Schedule.of(recipe(tmp_path, DataSource(source="stdlib")), window=1)
