"""``longrope serve`` and ``apply`` refuse bad input with one sentence and exit code 2, before any work is done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.chosen_factors import ChosenFactors
from longrope_vllm.cli.main import main
from longrope_vllm.server import launch
from longrope_vllm.server.launch import enable_endpoint, merged, overrides, prepare

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def document(checkpoint: Path) -> dict[str, object]:
    """A good factors file as a mapping, to be spoilt."""
    path = checkpoint.parent / "good.json"
    write_factors(path, Factors.from_baseline("yarn", Geometry.from_checkpoint(checkpoint), 1024))
    found: dict[str, object] = json.loads(path.read_text())
    return found


SPOILT = {
    "wrong factor count": (lambda d: d["tiers"][1]["factors"].pop(), "Expected 16 factors"),
    "NaN": (lambda d: d["tiers"][1]["factors"].__setitem__(3, float("nan")), "NaN"),
    "zero": (lambda d: d["tiers"][1]["factors"].__setitem__(3, 0.0), "above 0, found 0.0 as factor 3"),
    "shorter tier": (lambda d: d["tiers"][1].update(max_length=100), "growing max_length, found 100 after 256"),
    "unknown schema": (lambda d: d.update(schema="longrope-factors/9"), "'longrope-factors/9'"),
    "another model": (lambda d: d["geometry"].update(base=5e5), "base 10000.0"),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("command", ["apply", "serve"])
def test_bad_factors_are_one_sentence_and_nothing_is_written(
    name: str, command: str, checkpoint: Path, document: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "serve":
        pytest.importorskip("vllm", reason="serve checks the engine first")
    spoil, expected = SPOILT[name]
    spoil(document)
    path = checkpoint.parent / "bad.json"
    path.write_text(json.dumps(document))
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    assert main([command, str(checkpoint), "--factors", str(path)]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"longrope {command}: Expected")
    assert expected in message
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before


def test_a_missing_config_is_one_sentence(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint / "config.json").unlink()
    assert main(["apply", str(checkpoint), "--undo"]) == 2
    assert main(["show", str(checkpoint)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "Expected config.json in" in lines[1]


def test_an_unreadable_checkpoint_is_one_sentence(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkpoint / "config.json").write_text("{ half")
    assert main(["show", str(checkpoint)]) == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert "Expected readable JSON in" in message


def test_an_unsupported_vllm_is_one_sentence_before_anything_is_loaded(checkpoint: Path, tmp_path: Path) -> None:
    package = tmp_path / "path" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.19.2"\n')
    done = subprocess.run(
        [sys.executable, "-m", "longrope_vllm.cli.main", "serve", str(checkpoint)],
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (message,) = done.stderr.strip().splitlines()
    assert ">=0.25.1" in message
    assert "found 0.19.2" in message


def test_a_plugin_list_without_this_plugin_is_refused(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="serve checks the engine first")
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    assert main(["serve", str(checkpoint)]) == 2
    assert "Expected longrope among the plugins in VLLM_PLUGINS" in capsys.readouterr().err


def test_the_plugin_list_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "another,longrope")
    enable_endpoint()
    assert os.environ["VLLM_PLUGINS"] == "another,longrope"


def test_the_override_makes_a_longrope_config_and_keeps_the_checkpoint(checkpoint: Path) -> None:
    factors = Factors.from_baseline("yarn", Geometry.from_checkpoint(checkpoint), 1024)
    found = overrides(CONFIG, factors)
    assert found["rope_parameters"]["rope_type"] == "longrope"
    assert found["max_position_embeddings"] == 1024
    nested = overrides({"model_type": "multimodal", "text_config": CONFIG}, factors)
    assert nested == {"text_config": found}
    assert json.loads((checkpoint / "config.json").read_text()) == CONFIG


def test_the_model_may_stand_after_options_as_in_vllm(checkpoint: Path) -> None:
    pytest.importorskip("vllm", reason="the options are vLLM's")
    arguments, banner = prepare(ChosenFactors(), ["--port", "8001", str(checkpoint)])
    assert (arguments.model, arguments.port) == (str(checkpoint), 8001)
    assert "no longrope block and is served unchanged" in banner


def test_a_model_without_rope_is_served_unchanged(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the options are vLLM's")
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": 64, "n_embd": 32, "n_head": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, banner = prepare(ChosenFactors(), [str(tmp_path)])
    assert "no longrope block and is served unchanged" in banner


def test_no_model_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vllm", reason="the options are vLLM's")
    assert main(["serve", "--port", "8001"]) == 2
    assert "Expected a model to serve, found none" in capsys.readouterr().err


def test_the_users_own_overrides_show_in_the_banner_and_stay(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the options are vLLM's")
    factors = Factors.from_baseline("yarn", Geometry.from_checkpoint(checkpoint), 1024)
    write_factors(tmp_path / "factors.json", factors)
    options = [str(checkpoint), "--hf-overrides", json.dumps({"rms_norm_eps": 0.5})]
    arguments, banner = prepare(ChosenFactors(file=str(tmp_path / "factors.json")), options)
    assert arguments.hf_overrides["rms_norm_eps"] == 0.5
    assert arguments.hf_overrides["max_position_embeddings"] == 1024
    assert "257–1k tokens longrope" in banner
    _, banner = prepare(ChosenFactors(), [str(checkpoint), "--hf-overrides", json.dumps(overrides(CONFIG, factors))])
    assert "257–1k tokens longrope" in banner


def test_settings_join_those_in_the_users_own_additional_config(checkpoint: Path) -> None:
    pytest.importorskip("vllm", reason="the options are vLLM's")
    options = [str(checkpoint), "--additional-config", json.dumps({"another": 1, "longrope": {"policy": "explicit"}})]
    arguments, _ = prepare(ChosenFactors(), options, settings={"policy": None, "angles": "match-hf"})
    assert arguments.additional_config == {"another": 1, "longrope": {"policy": "explicit", "angles": "match-hf"}}
    arguments, _ = prepare(ChosenFactors(), options, settings={"policy": "prompt", "angles": None})
    assert arguments.additional_config["longrope"] == {"policy": "prompt"}


def test_changes_of_a_nested_text_config_go_into_it() -> None:
    config = {"model_type": "multimodal", "text_config": {"hidden_size": 128, "rope_theta": 1e4}}
    assert merged(config, {"text_config": {"rope_theta": 1e6}, "dtype": "float32"}) == {
        "model_type": "multimodal",
        "dtype": "float32",
        "text_config": {"hidden_size": 128, "rope_theta": 1e6},
    }


@pytest.mark.parametrize(
    ("options", "interval", "details"),
    [
        ([], 15, True),
        (["--sse-keep-alive-interval", "0"], 0, True),
        (["--sse_keep_alive_interval=40", "--no-enable-prompt-tokens-details"], 40, False),
    ],
)
def test_streams_are_kept_alive_and_cached_tokens_told_unless_the_user_says_otherwise(
    options: list[str], interval: int, details: bool, checkpoint: Path
) -> None:
    pytest.importorskip("vllm", reason="the options are vLLM's")
    arguments, _ = prepare(ChosenFactors(), [str(checkpoint), *options])
    assert (arguments.sse_keep_alive_interval, arguments.enable_prompt_tokens_details) == (interval, details)


def test_a_default_for_an_option_that_this_vllm_lacks_is_left_out(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", reason="the options are vLLM's")
    monkeypatch.setitem(launch.DEFAULTS, "of_another_version", 1)
    assert not hasattr(prepare(ChosenFactors(), [str(checkpoint)])[0], "of_another_version")


@pytest.mark.parametrize(
    ("changes", "options", "threads"),
    [({}, [], 4), ({}, ["--renderer-num-workers", "2"], 2), ({"vision_config": {"depth": 2}}, [], 1)],
)
def test_a_chat_need_not_wait_for_the_tokens_of_a_book(
    changes: dict[str, object], options: list[str], threads: int, checkpoint: Path
) -> None:
    pytest.importorskip("vllm", reason="the options are vLLM's")
    (checkpoint / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    arguments, _ = prepare(ChosenFactors(), [str(checkpoint), *options])
    assert arguments.renderer_num_workers == threads
