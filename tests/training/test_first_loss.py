"""A rope that did not take is seen in the first loss, against what the checkpoint has within its window."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from longrope_training.metrics import read_metrics
from longrope_vllm import Factors, Geometry, read_factors, write_factors
from longrope_vllm.cli.main import main
from longrope_vllm.errors import EXIT_CODE
from longrope_vllm.evaluation.perplexity import token_losses
from longrope_vllm.hf import fixed_rope
from trained_llama import LONGEST, TRAINED_WINDOW, search_text


def _words(folder: Path, model: Path, method: str, *more: str) -> list[str]:
    """One step of one long row of eight windows under the closed form ``method``."""
    factors = folder / "factors.json"
    write_factors(factors, Factors.from_baseline(method, Geometry.from_checkpoint(model), LONGEST))
    return [
        *(
            "train",
            str(model),
            "--factors",
            str(factors),
            "--data",
            str(search_text(folder)),
            "--out",
            str(folder / "out"),
        ),
        *("--stage", f"{LONGEST}:1", "--batch", "1", "--dtype", "float32", "--device", "cpu", *more),
    ]


@pytest.mark.parametrize("rows", [1, 2])
def test_a_rope_that_does_not_fit_ends_the_run_before_a_weight_is_changed(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int
) -> None:
    assert main(_words(tmp_path, trained, "pi", "--batch", str(rows))) == EXIT_CODE
    said = capsys.readouterr().err
    found = re.search(r"within 1 nats of the ([\d.]+) that the checkpoint has within its window, found ([\d.]+)", said)
    assert found, said
    assert not list((tmp_path / "out" / "checkpoints").glob("step-*"))
    assert not read_metrics(tmp_path / "out" / "metrics.jsonl")
    text = torch.frombuffer(bytearray((tmp_path / "search.txt").read_bytes()), dtype=torch.uint8).long()
    oracle = AutoModelForCausalLM.from_pretrained(trained, dtype=torch.float32)
    parts = text[: rows * LONGEST].split(LONGEST)
    own = torch.stack([token_losses(oracle, part[:TRAINED_WINDOW]) for part in parts]).mean().item()
    with fixed_rope(oracle, read_factors(tmp_path / "factors.json"), length=LONGEST):
        long = torch.stack([token_losses(oracle, part) for part in parts]).mean().item()
    assert float(found[1]) == pytest.approx(own, abs=6e-4)  # as printed, to three places
    assert float(found[2]) == pytest.approx(long, abs=6e-4)


@pytest.mark.parametrize(("method", "more"), [("yarn", ()), ("pi", ("--first-loss", "none"))])
def test_one_that_fits_is_trained_with_and_so_is_any_that_a_user_insists_on(
    trained: Path, tmp_path: Path, method: str, more: tuple[str, ...]
) -> None:
    assert main(_words(tmp_path, trained, method, *more)) == 0
    assert len(read_metrics(tmp_path / "out" / "metrics.jsonl")) == 1
