"""``longrope show``: what is printed and drawn for a plain, a stretched and a foreign rope."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.cli.main import main
from longrope_vllm.cli.show import shown_pairs
from longrope_vllm.factor_plot import draw_text, factor_plot, factor_ticks

SMALL: dict[str, Any] = {  # SmolLM2-135M: its critical pair is worked out in LongRoPE2's formula as 20
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "head_dim": 64,
    "hidden_size": 576,
    "num_attention_heads": 9,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return saved(tmp_path / "small", SMALL)


@pytest.fixture
def factors_file(tmp_path: Path) -> Path:
    factors = Factors.from_baseline("yarn", Geometry.from_config(SMALL), 16384)
    write_factors(tmp_path / "yarn.json", factors)
    return tmp_path / "yarn.json"


def saved(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["show", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["show", *map(str, arguments)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def row(output: str, start: str) -> list[str]:
    return next(line.split() for line in output.splitlines() if line.split()[:1] == [start])


def test_a_plain_checkpoint_shows_its_geometry_and_one_plain_tier(capsys, checkpoint):
    output = shown(capsys, checkpoint)
    assert "64 (32 pairs)" in output
    assert "20: pairs from 20 on never turn fully" in output
    assert "plain rope up to 8k" in output
    assert "--target 128k" in output


def test_factors_from_a_file_are_listed_by_tier_with_range_magnitude_and_origin(capsys, checkpoint, factors_file):
    output = shown(capsys, checkpoint, "--factors", factors_file)
    assert row(output, "1–8k") == ["1–8k", "1", "0", "1", "(plain)", "yes", "yarn"]
    assert row(output, "8,193–16k") == ["8,193–16k", "1.06931", "0", "1", "–", "2", "yes", "yarn"]


def test_the_wavelength_table_marks_the_first_pair_that_does_not_turn_fully(capsys, checkpoint, factors_file):
    output = shown(capsys, checkpoint, "--factors", factors_file)
    # 2 pi 1e5 ** (20 / 32) = 8,378.8 tokens, a little more than the window of 8,192; YaRN doubles it.
    assert row(output, "20") == ["20", "8,378.8", "0.98", "2", "16,757.5", "0.98", "←", "critical"]
    assert row(output, "0")[1:3] == ["6.3", "1,303.80"]


def test_the_plot_names_every_curve_and_the_critical_pair(capsys, checkpoint, factors_file):
    output = shown(capsys, checkpoint, "--factors", factors_file)
    legend = next(line for line in output.splitlines() if "NTK-aware" in line)
    assert all(name in legend for name in ("tier up to 16k", "YaRN", "PI", "critical pair 20"))


def test_a_target_draws_the_baselines_of_a_plain_checkpoint(capsys, checkpoint):
    output = shown(capsys, checkpoint, "--target", "128k")
    assert "NTK-aware" in output
    assert "\n16┤-----" in output  # PI, at the scale


def test_the_png_is_a_picture_of_the_promised_size(capsys, checkpoint, factors_file, tmp_path):
    picture = tmp_path / "factors.png"
    shown(capsys, checkpoint, "--factors", factors_file, "--png", picture)
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (1600, 960)


def test_a_longrope_checkpoint_shows_its_own_tiers_and_findings(capsys, tmp_path):
    rope = {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [4.0, *[3.0] * 31]}
    config = {**SMALL, "rope_scaling": rope, "rope_theta": 10000.0, "original_max_position_embeddings": 2048}
    del config["rope_parameters"]
    output = shown(capsys, saved(tmp_path / "phi", config))
    assert row(output, "2,049–8k")[-2:] == ["no", "checkpoint"]  # not monotone
    assert "not non-decreasing" in output
    assert "short_mscale is not stated" in output


def test_a_scaled_rope_is_one_tier_of_its_own_length(capsys, tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192, "rope_theta": 1e5}
    config = {**SMALL, "rope_parameters": yarn, "max_position_embeddings": 32768}
    assert row(shown(capsys, saved(tmp_path / "yarn", config)), "1–32k")[-1] == "own"


def test_a_rope_of_an_unknown_type_has_no_tiers(capsys, tmp_path):
    rope = {"rope_type": "deepseek_yarn", "factor": 4.0, "rope_theta": 1e5}
    config = {**SMALL, "rope_parameters": rope, "max_position_embeddings": 32768}
    assert "No tiers: a deepseek_yarn rope up to 32k" in shown(capsys, saved(tmp_path / "unknown", config))


def test_a_window_in_which_every_pair_turns_has_no_critical_pair(capsys, tmp_path):
    config = {**SMALL, "max_position_embeddings": 1 << 20, "rope_parameters": {"rope_theta": 1e4}}
    output = shown(capsys, saved(tmp_path / "long", config), "--target", "2M")
    assert "none: every pair turns fully" in output
    assert "← critical" not in output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--target", "8k"], "above the trained window of 8192, found 8192"),
        (["--target", "soon"], "Expected a length in tokens"),
        (["--png", "factors.png"], "a long tier or --target"),
        (["--factors", "absent.json"], "Expected a factors file"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_sentence(capsys, checkpoint, options, sentence):
    assert sentence in refused(capsys, checkpoint, *options)


def test_a_png_without_a_folder_is_refused_in_one_sentence(capsys, checkpoint, tmp_path):
    assert main(["show", str(checkpoint), "--target", "16k", "--png", str(tmp_path / "none" / "f.png")]) == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_factors_of_another_rope_are_refused(capsys, factors_file, tmp_path):
    other = saved(tmp_path / "other", {**SMALL, "rope_parameters": {"rope_theta": 1e4}})
    assert "they belong to another model" in refused(capsys, other, "--factors", factors_file)


def test_shown_pairs_keep_the_ends_and_the_critical_pair_of_a_wide_head():
    assert shown_pairs(8, 5) == list(range(8))
    wide = shown_pairs(64, 41)
    assert {0, 41, 63} <= set(wide)
    assert len(wide) <= 18


def test_ticks_lie_within_what_is_drawn():
    plot = factor_plot("m", Geometry.from_config(SMALL), (), target=8192 * 100)
    ticks = factor_ticks(plot.curves)
    assert ticks[0] == 1.0
    assert ticks[-1] == 64.0


def test_the_text_figure_is_as_wide_as_asked():
    plot = factor_plot("m", Geometry.from_config(SMALL), (), target=16384)
    figure = draw_text(plot, width=60).splitlines()[:-1]  # the last line is the legend
    assert max(len(line) for line in figure) <= 60
