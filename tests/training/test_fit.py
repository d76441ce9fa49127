"""What does not fit is told in one sentence before anything is loaded: the checkpoints here have no weights at all."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from longrope_training.fit import Fit, check_fit
from longrope_training.recipe import DataSource, Recipe, Stage
from longrope_training.recipe_file import recipe_of
from longrope_training.sharing import settled, shared_by
from longrope_vllm import Factors, Geometry, write_factors, write_rope
from longrope_vllm.errors import LongRopeError
from longrope_vllm.factors import own_tier
from tiny_models import LONG, WINDOW, stretched

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 384,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": WINDOW,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A configuration and the name of a tokenizer, and factors for it beside them."""
    folder = checkpoint(tmp_path / "model")
    write_factors(tmp_path / "factors.json", factors_for(folder, LONG))
    return folder


def checkpoint(folder: Path, **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    (folder / "tokenizer.json").touch()
    return folder


def factors_for(folder: Path, length: int) -> Factors:
    return Factors.from_baseline("yarn", Geometry.from_checkpoint(folder), length)


def recipe_for(model: Path, *, lengths: tuple[int, ...] = (LONG,), **asked: Any) -> Recipe:
    values = {
        "model": model,
        "out": model.parent / "out",
        "factors": model.parent / "factors.json",
        "stages": tuple(Stage(length=length, steps=1) for length in lengths),
        "data": (DataSource(source="stdlib"),),
        "device": "cpu",
    }
    return Recipe(**values | asked)


def fit(model: Path, *, processes: int | None = None, **asked: Any) -> Fit:
    return check_fit(recipe_for(model, **asked), processes=processes)


def test_each_stage_gets_the_tier_that_serves_its_length(model: Path) -> None:
    geometry = Geometry.from_checkpoint(model)
    factors = Factors.from_baselines([(512, "ntk"), (LONG, "yarn")], geometry)
    write_factors(model.parent / "factors.json", factors)
    found = fit(model, lengths=(400, 512, 513))
    assert [one.tier for one in found.stages] == [factors.tiers[1], factors.tiers[1], factors.tiers[2]]
    assert [one.row for one in found.stages] == [400, 512, 513]
    assert found.own == own_tier(geometry)
    assert (found.heads, found.kv_heads, found.geometry) == (12, 4, geometry)
    assert not list(model.glob("*.safetensors"))


def test_a_stage_may_have_factors_of_its_own(model: Path) -> None:
    other = model.parent / "other.json"
    write_factors(other, factors_for(model, 2048))
    stages = (Stage(length=LONG, steps=1), Stage(length=2048, steps=1, factors=other))
    assert [one.tier.max_length for one in fit(model, stages=stages).stages] == [LONG, 2048]


def test_a_stretched_checkpoint_is_tuned_further_from_its_shortest_tier(model: Path) -> None:
    plain = Geometry.from_checkpoint(model)
    own = own_tier(plain)
    stretched(model, max_length=512)
    found = fit(model)
    assert found.own == own
    assert found.stages[0].tier.max_length == LONG
    assert found.geometry.trained_window == WINDOW
    assert fit(model, lengths=(512, LONG)).stages[0].tier.max_length == LONG  # at the length that it claims already


def test_a_checkpoint_with_tiers_of_ours_is_tuned_further(model: Path) -> None:
    factors = Factors.from_baselines([(512, "ntk"), (LONG, "yarn")], Geometry.from_checkpoint(model))
    write_rope(model, factors)
    found = fit(model)
    assert found.own == factors.tiers[0]
    assert (found.geometry.rope_type, found.geometry.trained_window) == ("default", WINDOW)


def test_rows_of_pose_have_the_length_of_the_window(model: Path) -> None:
    (one,) = fit(model, positions="pose").stages
    assert (one.row, one.tier.max_length) == (WINDOW, LONG)


def test_the_tiny_preset_fits_a_tiny_checkpoint(model: Path) -> None:
    user = {"model": model, "out": model.parent / "out", "factors": model.parent / "factors.json"}
    found = check_fit(recipe_of({**user, "data": [{"source": "stdlib"}], "preset": "tiny"}))
    assert [one.row for one in found.stages] == [512]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"lengths": (WINDOW,)}, "Expected stages above the 256 tokens of the checkpoint's own rope, found one of 256"),
        ({"lengths": (LONG + 1,)}, "Expected factors that reach the 1,025 tokens of a stage, found some up to 1,024"),
        ({"attention": "flash"}, "Expected (flash-attn|a CUDA device) for --attention flash, found"),
        ({"parallel": "cp"}, "Expected a CUDA device for --parallel cp, found cpu: leave it out here"),
        ({"offload": True}, "Expected a CUDA device for --offload, found cpu"),
        ({"offload": True, "checkpointing": False}, "Expected checkpointing with offload"),
        ({"ways": 2}, "Expected --parallel sp or cp for 2 ways, found auto"),
        ({"device": "cuda:1"}, "Expected (--device auto, cpu or cuda|a CUDA device), found|for --device cuda:1, found"),
        ({"parallel": "cp", "short_share": 0.5}, "under full attention for --parallel cp, found rows of short doc"),
        ({"parallel": "cp", "positions": "pose"}, "for --parallel cp, found --positions pose"),
        ({"parallel": "cp", "ways": 3}, "Expected rows that 3 processes can share out in 6 equal parts, found one of"),
        ({"parallel": "sp", "ways": 5}, "that 5 processes can share out, found 12 in config.json: give --ways 2 or 4"),
        ({"parallel": "sp", "ways": 6}, "divide the 4 heads of keys and values, or a multiple of them, found 6"),
        ({"parallel": "sp", "ways": 4, "lengths": (1022,)}, "share out in 4 equal parts, found one of 1,022 tokens"),
        ({"parallel": "sp", "ways": 4, "processes": 6}, "in groups of 4 for --ways 4, found 6: start a multiple"),
        (
            {"parallel": "sp", "ways": 4, "dtype": "bfloat16"},
            "Expected --dtype float32 for --parallel sp without a GPU",
        ),
        ({"parallel": "sp", "processes": 5}, "Expected attention heads that 5 processes can share out, found 12"),
    ],
)
def test_what_does_not_fit_is_refused(asked: dict[str, Any], said: str, model: Path) -> None:
    with pytest.raises(LongRopeError, match=said) as found:
        fit(model, **asked)
    assert "\n" not in str(found.value)


def test_the_launcher_says_how_many_processes_there_are(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(LongRopeError, match="that 5 processes can share out"):
        fit(model, parallel="sp")


def test_factors_of_another_geometry_are_refused(model: Path, tmp_path: Path) -> None:
    write_factors(tmp_path / "factors.json", factors_for(checkpoint(tmp_path / "other", head_dim=64), LONG))
    with pytest.raises(LongRopeError, match="Expected factors for rotary_dim 32 of this checkpoint, found 64"):
        fit(model)


def test_a_checkpoint_must_have_a_configuration_and_a_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(LongRopeError, match="Expected a tokenizer in"):
        fit(model)
    (model / "config.json").unlink()
    with pytest.raises(LongRopeError, match=r"Expected config.json in"):
        fit(model)


def test_layers_that_see_a_window_need_flash_attn_and_are_no_ring(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(model, sliding_window=64)
    with pytest.raises(LongRopeError, match="found layers that see 64 tokens"):
        fit(model, parallel="cp")
    with pytest.raises(LongRopeError, match="Expected flash-attn for layers that see 64 tokens of a row of 1,024"):
        fit(model)
    monkeypatch.setattr("longrope_training.fit.flash_is_used", lambda recipe: True)
    fit(model)
    monkeypatch.undo()
    for change in ({"sliding_window": LONG}, {"use_sliding_window": False}, {"layer_types": ["full_attention"]}):
        checkpoint(model, **{"sliding_window": 64, **change})
        fit(model)


@pytest.mark.parametrize(
    ("processes", "ways", "device", "kind"),
    [
        (4, None, "cuda", "sp"),
        (8, 2, "cuda", "sp"),
        (1, None, "cuda", "single"),
        (None, None, "cuda", "single"),
        (5, None, "cuda", "single"),  # twelve heads
        (4, None, "cpu", "single"),
    ],
)
def test_several_gpus_share_rows_where_the_heads_allow_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, processes: int | None, ways: int | None, device: str, kind: str
) -> None:
    pytest.importorskip("deepspeed", reason="the extra sp is not installed")
    monkeypatch.setattr("longrope_training.sharing.device_named", torch.device)
    recipe = recipe_for(model, device=device, ways=ways)
    assert settled(recipe, processes=processes).parallel == kind
    named = recipe_for(model, device=device, parallel="single")
    assert settled(named, processes=processes) is named


def test_an_engine_that_is_not_installed_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longrope_training.fit.find_spec", lambda name: None)
    with pytest.raises(LongRopeError, match="Expected deepspeed for --parallel sp, found none installed"):
        fit(model, parallel="sp", ways=2)
    with pytest.raises(LongRopeError, match="Expected flash-attn for --attention flash, found none installed"):
        fit(model, attention="flash")


def test_heads_are_shared_out_as_deepspeed_does() -> None:
    """Its rule: a divisor of the heads, which divides the heads of keys and values or is a multiple of them."""
    assert shared_by(32, 8) == (2, 4, 8, 16, 32)
    assert shared_by(12, 4) == (2, 4, 12)
    assert shared_by(9, 3) == (3, 9)
    assert shared_by(28, 4) == (2, 4, 28)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed")
def test_rows_are_shared_out_on_a_cpu(model: Path) -> None:
    assert fit(model, parallel="sp", processes=4, short_share=0.5, dtype="float32").device == torch.device("cpu")
