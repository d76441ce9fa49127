"""Which process reads which row: every row of a step once, in the step it belongs to, however many share the work."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from longrope_training.parallel import Processes, parallel_settings
from longrope_training.recipe import DataSource, Recipe, Stage
from longrope_training.run import _wait_for
from longrope_vllm.errors import TrainingError

STEPS = 5


def _recipe(tmp_path: Path, **changed: Any) -> Recipe:
    factors = tmp_path / "factors.json"
    factors.write_text("{}")
    return Recipe(
        model=tmp_path,
        out=tmp_path / "out",
        factors=factors,
        stages=(Stage(length=64, steps=STEPS),),
        data=(DataSource(source="stdlib"),),
        **changed,
    )


def _trained_on(recipe: Recipe, world: int, ways: int, *, step: int) -> list[list[int]]:
    """Rows of each group in order: under Ulysses the rows that its processes read are gone through one by one."""
    found = []
    for group in range(world // ways):
        ranks = range(group * ways, (group + 1) * ways)
        read = [Processes(rank=rank, world=world, ways=ways).rows(recipe, step=step) for rank in ranks]
        assert len({len(rows) for rows in read}) == 1, "a process that reads less would leave the others waiting"
        found.append(list(chain.from_iterable(zip(*read, strict=True))) if recipe.parallel == "sp" else read[0])
    return found


@pytest.mark.parametrize("step", [0, 1, 4])
@pytest.mark.parametrize(
    ("parallel", "world", "ways", "batch"),
    [
        ("single", 1, 1, 3),
        ("single", 4, 1, 8),
        ("sp", 2, 2, 1),
        ("sp", 2, 2, 3),
        ("sp", 4, 2, 2),
        ("sp", 8, 2, 12),
        ("sp", 4, 4, 6),
        ("cp", 4, 2, 6),
    ],
)
def test_a_step_trains_on_its_rows_once_from_any_step_on(
    tmp_path: Path, parallel: str, world: int, ways: int, batch: int, step: int
) -> None:
    recipe = _recipe(tmp_path, parallel=parallel, ways=ways if ways > 1 else None, batch=batch)
    groups = _trained_on(recipe, world, ways, step=step)
    each = batch // len(groups)
    for number in range(step, STEPS):
        begin = (number - step) * each
        rows = [row for group in groups for row in group[begin : begin + each]]
        assert sorted(rows) == list(range(number * batch, (number + 1) * batch))


def test_all_processes_of_a_ring_read_the_same_rows(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, parallel="cp", batch=4)
    first, second = (Processes(rank=rank, world=2, ways=2).rows(recipe, step=0) for rank in (0, 1))
    assert first == second


def test_gpus_that_one_process_leaves_alone_are_named(tmp_path: Path) -> None:
    recipe, alone = _recipe(tmp_path, parallel="single"), Processes(rank=0, world=1, ways=1)
    assert alone.told(recipe, gpus=8).endswith("8 GPUs are there, accelerate launch --num_processes 8 uses all")
    for gpus in (0, 1):
        assert alone.told(recipe, gpus=gpus) == "parallel single: 1 rows at a time, 1 of 1 processes for each"


def test_a_node_that_does_not_see_what_the_first_process_writes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrope_training.run._PATIENCE", 0.1)
    with pytest.raises(TrainingError, match="so put it on a file system that they share"):
        _wait_for(tmp_path / "recipe.json")
    (tmp_path / "recipe.json").touch()
    _wait_for(tmp_path / "recipe.json")


def test_deepspeed_takes_the_settings_of_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs, where the batch of all processes has to come out; on a CPU transformers sees one process."""
    config: Any = pytest.importorskip("deepspeed.runtime.config", reason="the extra sp is not installed")
    for world, ways, batch in ((2, 2, 8), (4, 2, 6), (8, 8, 64)):
        monkeypatch.setattr("deepspeed.comm.get_world_size", lambda *_, world=world: world)
        monkeypatch.setattr("deepspeed.comm.get_rank", lambda: 0)
        processes = Processes(rank=0, world=world, ways=ways)
        recipe = _recipe(tmp_path, parallel="sp", ways=ways, batch=batch)
        found = config.DeepSpeedConfig(parallel_settings(recipe, processes)["deepspeed"])
        assert found.gradient_accumulation_steps == processes.micro_batches(recipe)
        assert found.train_batch_size == batch
        assert found.grad_accum_dtype == "fp32"


@pytest.mark.parametrize(
    ("changed", "world", "said"),
    [
        ({"parallel": "sp"}, 1, "Expected several processes for parallel sp, found one"),
        ({"batch": 8}, 3, "Expected a batch that 3 groups of processes share evenly, found 8"),
    ],
)
def test_processes_that_cannot_share_the_work_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], world: int, said: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(TrainingError, match=said):
        Processes.of(_recipe(tmp_path, **changed))
