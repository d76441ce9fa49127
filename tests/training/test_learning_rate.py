"""Learning rates by step, against transformers' own schedules."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from longrope_training.learning_rate import learning_rates
from longrope_training.recipe import DataSource, Recipe, Stage


def _recipe(factors: Path, **changed: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": factors.parent,
        "out": factors.parent / "out",
        "factors": factors,
        "stages": (Stage(length=64, steps=20), Stage(length=128, steps=10, learning_rate=1e-3)),
        "data": (DataSource(source="stdlib"),),
    }
    return Recipe(**values | changed)


@pytest.fixture
def factors(tmp_path: Path) -> Path:
    path = tmp_path / "factors.json"
    path.write_text("{}")
    return path


@pytest.mark.parametrize(
    ("name", "oracle"), [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)]
)
def test_without_warm_up_each_stage_decays_as_a_run_of_transformers_would(
    factors: Path, name: str, oracle: Any
) -> None:
    found = learning_rates(_recipe(factors, learning_rate_schedule=name, learning_rate=2e-5))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-5)
    schedule = oracle(optimizer, 0, 20)
    for step in range(20):
        assert found[step] == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()
    assert found[20] == pytest.approx(1e-3), "the second stage begins anew, with its own rate"
    assert len(found) == 30


def test_warm_up_rises_evenly_to_the_rate_and_the_constant_schedule_stays_there(factors: Path) -> None:
    found = learning_rates(_recipe(factors, learning_rate_schedule="constant", learning_rate=1e-4, warmup=4))
    assert found[:5] == pytest.approx([2e-5, 4e-5, 6e-5, 8e-5, 1e-4])
    assert set(found[5:20]) == {1e-4}


def test_a_warm_up_longer_than_a_stage_still_ends_at_its_rate(factors: Path) -> None:
    found = learning_rates(_recipe(factors, learning_rate=1e-4, warmup=50))
    assert found[19] == pytest.approx(1e-4)
    assert found[29] == pytest.approx(1e-3)
