"""Oracle: rows written out token by token from the documents of the streams; for PoSE, the paper's definition."""

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from made_text import WINDOW, documents_in, jsonl, prepared, recipe, words
from torch.utils.data import DataLoader

from longrope_training.data.rows import Row, Rows, pose_positions
from longrope_training.data.schedule import Kind, Schedule
from longrope_training.data.streams import Stream
from longrope_training.recipe import DataSource, Recipe, Stage

IGNORED = -100


@pytest.fixture
def made(tmp_path: Path) -> Recipe:
    texts = [text for letter in "abcdefgh" for text in words(letter, 12, shortest=1, longest=90)]
    source = DataSource(source=jsonl(tmp_path / "t.jsonl", texts))
    stages = (Stage(length=50, steps=6), Stage(length=128, steps=5))
    return recipe(tmp_path, source, stages=stages, short_share=0.4, batch=7, seed=3)


def rows_of(made: Recipe) -> Rows:
    return Rows(prepared(made), Schedule.of(made, window=WINDOW), seed=made.seed)


def of_kind(rows: Rows, kind: Kind) -> list[Row]:
    """In the order of their stream."""
    found = [row for row in map(rows.__getitem__, range(len(rows))) if row.slot.kind == kind]
    return sorted(found, key=lambda row: rows.begin(row.slot))


def one_by_one(stream: Stream) -> list[tuple[int, int]]:
    """Each token of a stream with the number of its document."""
    return [(token, number) for number, document in enumerate(documents_in(stream)) for token in document]


def test_long_rows_are_the_long_stream_without_a_gap(made: Recipe) -> None:
    rows = rows_of(made)
    found = of_kind(rows, "long")
    assert torch.cat([row.tokens for row in found]).tolist() == prepared(made).long.tokens.tolist()
    for row in found:
        assert row.positions.tolist() == list(range(row.slot.length))
        assert row.labels.tolist() == [IGNORED, *row.tokens[1:].tolist()]


def test_short_rows_begin_again_at_every_document_and_at_the_row(made: Recipe) -> None:
    rows = rows_of(made)
    stream = iter(one_by_one(prepared(made).short))
    for row in of_kind(rows, "short"):
        expected = []
        last, position = None, 0
        for token, document in itertools.islice(stream, row.slot.length):
            position = position + 1 if document == last else 0
            last = document
            expected.append((token, position, token if position else IGNORED))
        found = zip(row.tokens.tolist(), row.positions.tolist(), row.labels.tolist(), strict=True)
        assert list(found) == expected
        assert int(row.positions.max()) < WINDOW
    assert next(stream, None) is None


def test_rows_are_shuffled_within_their_stage_by_the_seed(made: Recipe) -> None:
    schedule = Schedule.of(made, window=WINDOW)
    begins = {
        seed: [Rows(prepared(made), schedule, seed=seed).begin(schedule.slot(row)) for row in range(len(schedule))]
        for seed in (3, 4)
    }
    assert begins[3] != begins[4]
    for kind in ("long", "short"):
        rows = [row for row in range(len(schedule)) if schedule.slot(row).kind == kind]
        for stage in (0, 1):
            mine = [row for row in rows if schedule.slot(row).stage == stage]
            found, in_order = [begins[3][row] for row in mine], [schedule.start(schedule.slot(row)) for row in mine]
            assert found != in_order
            assert sorted(found) == in_order


def test_every_row_has_something_to_predict(tmp_path: Path) -> None:
    source = DataSource(source=jsonl(tmp_path / "t.jsonl", words("a", 50, shortest=1, longest=WINDOW * 3)))
    asked = recipe(tmp_path, source, stages=(Stage(length=16, steps=20),), short_share=0.9)
    rows = rows_of(asked)
    assert min(rows[row].targets for row in range(len(rows))) > 0


def test_the_targets_of_a_step_are_those_of_its_rows(made: Recipe) -> None:
    rows = rows_of(made)
    for step in range(made.steps):
        counted = sum(int((rows[row].labels != IGNORED).sum()) for row in range(7 * step, 7 * step + 7))
        assert rows.step_targets(step) == counted == sum(rows[row].targets for row in range(7 * step, 7 * step + 7))


@pytest.mark.parametrize("positions", ["whole", "pose"])
def test_rows_are_the_same_in_whatever_order_and_process_they_are_read(tmp_path: Path, positions: str) -> None:
    source = DataSource(source=jsonl(tmp_path / "t.jsonl", words("a", 50)))
    asked = recipe(tmp_path, source, short_share=0.25, positions=positions, stages=(Stage(length=128, steps=5),))
    rows = rows_of(asked)
    straight = [rows[row] for row in range(len(rows))]
    order = random.Random(0).sample(range(len(rows)), len(rows))
    loader = DataLoader(rows, batch_size=None, sampler=order, num_workers=1, multiprocessing_context="spawn")
    for row, found in zip(order, loader, strict=True):
        assert found.slot == straight[row].slot
        assert torch.equal(found.tokens, straight[row].tokens)
        assert torch.equal(found.positions, straight[row].positions)
        assert torch.equal(found.labels, straight[row].labels)


def test_rows_are_int64_of_one_shape(made: Recipe) -> None:
    row = rows_of(made)[0]
    assert {tensor.dtype for tensor in (row.tokens, row.positions, row.labels)} == {torch.int64}
    assert {tensor.shape for tensor in (row.tokens, row.positions, row.labels)} == {(50,)}
    with pytest.raises(IndexError):
        rows_of(made)[-1]


def test_pose_rows_jump_once_within_the_length_of_their_stage(tmp_path: Path) -> None:
    source = DataSource(source=jsonl(tmp_path / "t.jsonl", words("a", 50)))
    stages = (Stage(length=100, steps=30), Stage(length=1000, steps=30))
    asked = recipe(tmp_path, source, stages=stages, positions="pose", short_share=0.25)
    rows = rows_of(asked)
    jumps = set()
    for row in of_kind(rows, "long"):
        assert len(row.tokens) == WINDOW
        steps = row.positions.diff()
        assert row.positions[0] == 0
        assert int((steps != 1).sum()) <= 1
        assert int(steps.min()) >= 1
        assert int(row.positions[-1]) < stages[row.slot.stage].length
        assert row.labels.tolist() == [IGNORED, *row.tokens[1:].tolist()]
        jumps.add(int(steps.max()))
    assert len(jumps) > 50  # drawn anew for each row
    for row in of_kind(rows, "short"):
        assert int(row.positions.max()) < WINDOW
        assert len(row.tokens) == WINDOW


def test_pose_draws_every_split_and_every_skip_alike(tmp_path: Path) -> None:
    draw = random.Random(0)
    drawn = [pose_positions(4, span=7, draw=draw).tolist() for _ in range(12_000)]
    by_split_and_skip = Counter(map(tuple, drawn))
    expected = {
        tuple(range(split)) + tuple(place + skip for place in range(split, 4))
        for split in (1, 2, 3)
        for skip in (0, 1, 2, 3)
    }
    assert set(by_split_and_skip) == expected
    # skip 0 looks alike for every split: a quarter of all; each other pair is a twelfth, to within 5 deviations
    assert by_split_and_skip[0, 1, 2, 3] / 12_000 == pytest.approx(1 / 4, abs=0.02)
    assert all(
        count / 12_000 == pytest.approx(1 / 12, abs=0.0127)
        for positions, count in by_split_and_skip.items()
        if positions != (0, 1, 2, 3)
    )


def test_another_seed_draws_other_positions_of_the_same_tokens(tmp_path: Path) -> None:
    source = DataSource(source=jsonl(tmp_path / "t.jsonl", words("a", 50)))
    asked = recipe(tmp_path, source, stages=(Stage(length=1000, steps=2),), positions="pose")
    streams, schedule = prepared(asked), Schedule.of(asked, window=WINDOW)
    one, other = Rows(streams, schedule, seed=0), Rows(streams, schedule, seed=1)
    assert any(not torch.equal(one[row].positions, other[row].positions) for row in range(len(one)))
    every = [torch.cat([row.tokens for row in of_kind(rows, "long")]) for rows in (one, other)]
    assert torch.equal(*every)
