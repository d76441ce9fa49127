"""What a model knows before a search, for every kind of rope; the formulas are written out here."""

import math
from pathlib import Path

import pytest

from longrope_search.plan import Plan, plan
from longrope_search.request import Request
from longrope_vllm import Factors, Geometry, write_factors
from tiny_models import WINDOW, byte_tokenizer, stretched, tiny_llama

ROPES = {
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0},
}


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Enough for any length here."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} bottles of beer on the wall. " for number in range(600)))
    return str(path)


def scaled(folder: Path, kind: str) -> Path:
    """A model whose own rope of ``kind`` reaches four windows."""
    rope: dict[str, object] = {"rope_type": kind, "rope_theta": 10_000.0, **ROPES[kind]}
    rope["original_max_position_embeddings"] = WINDOW // 4
    return byte_tokenizer(tiny_llama(folder, rope=rope))


def planned(model: Path, text: str, tmp_path: Path, *lengths: int, **asked: object) -> Plan:
    """The plan of a search."""
    stated = {"samples": 1, "held_out": 1, "documents": (text,), "out": tmp_path / "f.json", **asked}
    return plan(Request(model=str(model), lengths=lengths, **stated))  # type: ignore[arg-type]


def formula(length: float, window: int) -> float:
    """LongRoPE's attention factor."""
    return math.sqrt(1 + math.log(length / window) / math.log(window))


def test_a_plain_model_has_the_published_attention_factor_and_scale(text: str, tmp_path: Path) -> None:
    (stage,) = planned(byte_tokenizer(tiny_llama(tmp_path / "m")), text, tmp_path, 1024).stages
    assert stage.space.scale == 1024 / WINDOW
    assert stage.space.attention_factor == pytest.approx(formula(1024, WINDOW))


@pytest.mark.parametrize(("kind", "own"), [("llama3", 1.0), ("linear", 1.0), ("yarn", 0.1 * math.log(4) + 1)])
def test_over_a_scaled_rope_scale_and_attention_factor_are_relative_to_what_it_reaches(
    text: str, tmp_path: Path, kind: str, own: float
) -> None:
    (stage,) = planned(scaled(tmp_path / "m", kind), text, tmp_path, 2 * WINDOW).stages
    window = WINDOW // 4
    assert stage.space.footing.max_length == WINDOW
    assert stage.space.scale == 2.0
    grown = formula(2 * WINDOW, window) / formula(WINDOW, window)
    assert stage.space.attention_factor == pytest.approx(own * grown)


def test_after_tuning_with_longrope_the_attention_factor_is_that_of_the_whole_stretch(
    text: str, tmp_path: Path
) -> None:
    model = byte_tokenizer(tiny_llama(tmp_path / "m"))
    geometry = Geometry.from_checkpoint(model)
    known = Factors.from_baseline("ntk", geometry, 512)
    tuned = (
        known.tiers[0],
        type(known.tiers[1])(max_length=512, factors=known.tiers[1].factors, attention_factor=formula(512, WINDOW)),
    )
    write_factors(tmp_path / "tuned.json", Factors(**{**vars(known), "tiers": tuned}))
    (stage,) = planned(model, text, tmp_path, 2048, footing=tmp_path / "tuned.json").stages
    assert stage.space.scale == 4.0
    assert stage.space.attention_factor == pytest.approx(formula(2048, WINDOW))


def test_an_applied_block_and_its_file_are_the_same_footing(text: str, tmp_path: Path) -> None:
    plain, applied = scaled(tmp_path / "plain", "llama3"), scaled(tmp_path / "applied", "llama3")
    known = Factors.from_baseline("yarn", Geometry.from_checkpoint(plain), 1024)
    write_factors(tmp_path / "tuned.json", known)
    stretched(applied)
    for lengths, kind in (((128, 256), "short"), ((2048,), "tiers")):
        by_file = planned(plain, text, tmp_path, *lengths, footing=tmp_path / "tuned.json", kind=kind)
        by_block = planned(applied, text, tmp_path, *lengths, kind=kind)
        for one, other in zip(by_file.stages, by_block.stages, strict=True):
            assert one.space.footing == other.space.footing
            assert (one.space.scale, one.space.largest) == (other.space.scale, other.space.largest)
            assert one.space.attention_factor == pytest.approx(other.space.attention_factor)


def test_short_lengths_within_the_window_keep_the_models_own_magnitude(text: str, tmp_path: Path) -> None:
    model = scaled(tmp_path / "m", "llama3")
    write_factors(tmp_path / "tuned.json", Factors.from_baseline("yarn", Geometry.from_checkpoint(model), 1024))
    plan = planned(model, text, tmp_path, 64, 128, footing=tmp_path / "tuned.json", kind="short")
    assert [stage.space.attention_factor for stage in plan.stages] == [1.0, 1.0]
    assert [stage.space.largest for stage in plan.stages] == [1.25, 1.25]
    for stage in plan.stages:
        assert list(stage.baselines()) == ["as tuned"] or list(stage.baselines()) == ["as tuned", "none"]
