"""``recipes/tiny.sh``: the whole line from a model to an answer, on the tiny model that has really learned."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from longrope_vllm import read_factors
from longrope_vllm.evaluation.perplexity import token_losses
from longrope_vllm.hf import fixed_rope
from trained_llama import EXCERPTS, LONGEST, held_out_text, training_text

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "tiny.sh"
PIECE = 2 * LONGEST


@pytest.mark.slow
@pytest.mark.vllm
def test_the_tiny_recipe_reads_eight_windows_better_and_one_as_before(trained: Path, tmp_path: Path) -> None:
    texts, out = tmp_path / "texts", tmp_path / "out"
    for name in ("train", "held_out"):
        (texts / name).mkdir(parents=True)
    _pieces(texts / "train" / "pieces.jsonl")
    held_out = held_out_text(texts / "held_out")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    command = ["bash", str(RECIPE), str(trained), str(texts), str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert json.loads((out / "answer.json").read_text())["choices"][0]["text"]
    assert "## Evaluation" in (out / "merged" / "README.md").read_text()
    _check_page(out, tmp_path / "page.md")
    before, after = _losses(trained, out, held_out), _losses(out / "merged", out, held_out)
    assert after[LONGEST] < before[LONGEST] - 0.02, "eight windows are read better under the same factors"
    assert after[64] < before[64] + 0.01, "and one as before, to one per cent of its perplexity"


def _check_page(out: Path, page: Path) -> None:
    """``benchmarks/recipe_page.py`` has every search, the fine-tuning, and every method at every length."""
    script = str(ROOT / "benchmarks" / "recipe_page.py")
    subprocess.run([sys.executable, script, str(out), "--recipe", "tiny.sh", "--out", str(page)], check=True)
    text = page.read_text()
    for row in (
        "first | 256",
        "evolution | 512",
        "longrope2 | 512",
        "short | 32",
        "untuned | 1k",
        "far | 1k",
        "tuned | 20",
    ):
        assert f"\n| {row} |" in text, row
    assert "\n| method | 64 | 256 | 512 | 1k |\n" in text
    for method in ("none", "pi", "ntk", "dynamic-ntk", "yarn", "untuned", "evolution", "LongRoPE2", "tuned"):
        assert f"\n| {method} | " in text, method
    assert "\n| tuned, 512 for all | " in text
    pictures = [line.partition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert {"page_search.png", "page_loss.png", "page_perplexity.png"} <= set(pictures)
    assert all((page.parent / picture).is_file() for picture in pictures)


def _pieces(path: Path) -> Path:
    """What the model was trained on as shuffled documents, one a line."""
    text = training_text()
    pieces = [text[begin : begin + PIECE] for begin in range(0, len(text) - PIECE, PIECE)]
    random.Random(0).shuffle(pieces)
    path.write_text("\n".join(json.dumps({"text": piece}) for piece in pieces))
    return path


def _losses(model: Path, out: Path, held_out: Path) -> dict[int, float]:
    """Mean loss of documents it has not seen, at one and at eight windows, under the factors that were tuned with."""
    module, factors = (
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        read_factors(out / "first.json"),
    )
    codes = torch.frombuffer(bytearray(held_out.read_bytes()), dtype=torch.uint8).long().view(EXCERPTS, LONGEST)
    found = {}
    for length in (64, LONGEST):
        with fixed_rope(module, factors, length=length):
            found[length] = torch.cat([token_losses(module, document[:length]) for document in codes]).mean().item()
    return found
