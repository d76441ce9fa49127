"""Whole runs on a tiny model: what they leave behind, and that others read it."""

import shutil
import stat
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from longrope_training.data.rows import Rows
from longrope_training.data.schedule import Schedule, StageRows
from longrope_training.data.streams import Streams
from longrope_training.metrics import read_metrics
from longrope_vllm import Geometry, read_factors, read_rope_block
from longrope_vllm.cli.main import main
from longrope_vllm.errors import EXIT_CODE
from longrope_vllm.evaluation.perplexity import token_losses
from longrope_vllm.geometry import read_config
from longrope_vllm.hf import fixed_rope
from tiny_training import STEPS, losses, weights, words


@pytest.fixture
def tuned(model: Path, factors: Path, text: Path, tmp_path: Path) -> Path:
    """The output folder of a run."""
    assert main(words(tmp_path)) == 0
    return tmp_path / "tuned"


def test_a_run_learns_both_kinds_of_rows_and_writes_each_step_once(
    capsys: pytest.CaptureFixture[str], tuned: Path
) -> None:
    metrics = read_metrics(tuned / "metrics.jsonl")
    assert [entry["step"] for entry in metrics] == list(range(1, STEPS + 1))
    assert [entry["length"] for entry in metrics] == [512] * 3 + [1024] * 3
    assert [entry["tokens"] for entry in metrics] == [1024, 2048, 3072, 5120, 7168, 9216]
    for entry in metrics:
        assert entry["loss"] == pytest.approx((entry["loss_long"] + entry["loss_short"]) / 2, rel=0.02)
    assert metrics[-1]["loss_long"] < metrics[0]["loss_long"]
    assert metrics[-1]["loss_short"] < metrics[0]["loss_short"]
    assert (tuned / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((tuned / "tensorboard").glob("events.*"))
    assert "step 6 of 6, 1k: loss long" in capsys.readouterr().out


def test_the_tuned_checkpoint_has_all_tiers_and_the_format_of_the_original(tuned: Path, model: Path) -> None:
    found = read_rope_block(read_config(tuned / "model"))
    assert found is not None
    assert [tier.max_length for tier in found.tiers] == [256, 1024]
    assert found.tiers[-1] == read_factors(model.parent / "factors.json").tiers[-1]
    before = AutoModelForCausalLM.from_pretrained(model)
    after = AutoModelForCausalLM.from_pretrained(tuned / "model")
    assert after.dtype == before.dtype
    assert after.state_dict().keys() == before.state_dict().keys()
    assert not torch.equal(after.model.norm.weight, before.model.norm.weight)
    assert AutoTokenizer.from_pretrained(tuned / "model")("bottles")["input_ids"]
    assert Geometry.from_checkpoint(tuned / "model").max_positions == 1024
    card = (tuned / "model" / "README.md").read_text()
    assert "| 2 | 1k | 3 | long" in card
    assert (tuned / "model" / "loss.png").is_file()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tuned / "model").iterdir()} == {0o644}


def test_the_first_loss_is_that_of_documents_under_the_own_rope_and_of_a_long_row_under_the_factors(
    tuned: Path, model: Path, factors: Path
) -> None:
    stages = tuple(StageRows(steps=3, span=length, length=length) for length in (512, 1024))
    half = Fraction(1, 2)
    schedule = Schedule(stages=stages, batch=2, short_share=half, window=256, positions="whole")
    rows = Rows(Streams.at(tuned / "data"), schedule, seed=0)
    long, short = sorted((rows[0], rows[1]), key=lambda row: row.slot.kind)
    oracle = AutoModelForCausalLM.from_pretrained(model)
    with fixed_rope(oracle, read_factors(factors), length=1024):
        of_long = token_losses(oracle, long.tokens)
    begins = [*(short.positions == 0).nonzero()[:, 0].tolist(), len(short.tokens)]
    documents = [short.tokens[begin:end] for begin, end in pairwise(begins)]
    of_short = torch.cat([token_losses(oracle, document) for document in documents])  # each by itself
    loss, loss_long, loss_short, *_ = losses(tuned)[0]
    assert loss_long == pytest.approx(of_long.mean().item(), rel=1e-5)
    assert loss_short == pytest.approx(of_short.mean().item(), rel=1e-5)
    assert loss == pytest.approx(torch.cat([of_long, of_short]).mean().item(), rel=1e-5)
    assert len(documents) > 2


def test_a_run_that_is_complete_only_says_so(tuned: Path, tmp_path: Path) -> None:
    before, made = weights(tuned), (tuned / "metrics.jsonl").read_bytes()
    assert main(words(tmp_path)) == 0
    assert (tuned / "metrics.jsonl").read_bytes() == made
    assert all(torch.equal(found, before[name]) for name, found in weights(tuned).items())


def test_another_recipe_in_the_same_folder_is_refused(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, "--seed", "5")) == EXIT_CODE
    assert "was begun with, found another seed: give another out" in capsys.readouterr().err


def test_the_card_takes_the_table_of_an_evaluation(tuned: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "report.md").write_text("# by length\n\n| 1k | 2.5 |\n")
    assert main(["train", "card", str(tuned / "model"), "--eval", str(results)]) == 0
    card = (tuned / "model" / "README.md").read_text()
    assert card.endswith("## Evaluation\n\n## by length\n\n| 1k | 2.5 |\n")
    assert "Not evaluated yet" not in card
    assert main(words(tmp_path)) == 0  # the run once more, which is complete
    assert (tuned / "model" / "README.md").read_text() == card


def test_adapters_are_resumed_merged_into_the_checkpoint_and_kept_beside_it(
    model: Path, factors: Path, text: Path, tmp_path: Path
) -> None:
    more = ("--tuning", "lora", "--mlp-tokens", "256", "--warmup", "2")
    assert main(words(tmp_path, *more)) == 0
    whole, before = weights(tmp_path / "tuned"), losses(tmp_path / "tuned")
    original = load_file(model / "model.safetensors")
    assert whole.keys() == original.keys()
    changed = {name for name, weight in whole.items() if not torch.equal(weight, original[name])}
    assert any("q_proj" in name for name in changed)
    assert any("norm" in name for name in changed)
    assert any("embed_tokens" in name for name in changed)
    assert (tmp_path / "tuned" / "adapter" / "adapter_config.json").is_file()
    for name in ("step-6", "step-4"):
        shutil.rmtree(tmp_path / "tuned" / "checkpoints" / name)
    assert main(words(tmp_path, *more)) == 0, "from the first step again"
    assert losses(tmp_path / "tuned") == before


def test_adapters_go_on_from_a_checkpoint(model: Path, factors: Path, text: Path, tmp_path: Path) -> None:
    more = ("--tuning", "lora")
    assert main(words(tmp_path, *more)) == 0
    whole, before = weights(tmp_path / "tuned"), losses(tmp_path / "tuned")
    shutil.rmtree(tmp_path / "tuned" / "checkpoints" / "step-6")
    assert main(words(tmp_path, *more)) == 0, "from step 4"
    assert losses(tmp_path / "tuned") == before
    assert all(torch.equal(weight, whole[name]) for name, weight in weights(tmp_path / "tuned").items())


def test_skipped_positions_are_trained_on_rows_of_the_window(
    model: Path, factors: Path, text: Path, tmp_path: Path
) -> None:
    assert main(words(tmp_path, "--positions", "pose")) == 0
    metrics = read_metrics(tmp_path / "tuned" / "metrics.jsonl")
    assert [entry["tokens"] for entry in metrics] == [512 * step for step in range(1, STEPS + 1)]
    assert metrics[-1]["loss_long"] < metrics[0]["loss_long"]
