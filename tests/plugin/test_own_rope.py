"""A checkpoint of any rope type: its own rope up to its length, static YaRN above it, in one engine.

Oracles: transformers with the checkpoint as it is, one pass a request, for the short tier; transformers told to use
YaRN for everything, as static scaling does, for the long one; and vLLM's own tables, bit for bit.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine_jobs import LONGROPE, RunEngine, prompt, request
from longrope_vllm import Factors, Geometry
from longrope_vllm.geometry import read_config
from longrope_vllm.rope_block import portable_fields
from one_pass import TOLERANCE
from tiny_models import WINDOW, tiny_llama, tiny_mistral, tiny_qwen3

LONGEST = 1024
LLAMA3 = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
CASES: dict[str, tuple[Callable[..., Path], dict[str, Any], int]] = {
    "a plain Mistral with a sliding window": (tiny_mistral, {"rope_type": "default"}, WINDOW),
    "a linear Llama": (tiny_llama, {"rope_type": "linear", "factor": 2.0}, 2 * WINDOW),
    "a dynamic Llama": (tiny_llama, {"rope_type": "dynamic", "factor": 2.0}, WINDOW),
    "a Llama 3.1": (tiny_llama, {"rope_type": "llama3", **LLAMA3}, WINDOW),
    "a Qwen3 with YaRN": (
        tiny_qwen3,
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": WINDOW},
        2 * WINDOW,
    ),
}
"""Model, rope block, and the length its own rope is for."""


@pytest.fixture(scope="module", params=CASES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    make, rope, length = CASES[request.param]
    return make(tmp_path_factory.mktemp("own"), rope={**rope, "rope_theta": 10_000.0}), length


def fields_of(folder: Path) -> dict[str, Any]:
    """What ``longrope serve --tiers 640:yarn,1k:yarn`` puts over the checkpoint."""
    config = read_config(folder)
    factors = Factors.from_baselines([(640, "yarn"), (LONGEST, "yarn")], Geometry.from_config(config))
    return portable_fields(config, factors)


def log_probabilities(folder: Path, rope: dict[str, Any] | None, tokens: list[int], *, outputs: int) -> Any:
    """One pass of transformers, the whole model with ``rope``; shape [outputs, vocabulary]."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    if rope is not None:
        config.rope_parameters = {"rope_theta": 10_000.0, **rope}
        config.max_position_embeddings = LONGEST
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([tokens[:-1]])).logits[0, -outputs:].double().log_softmax(dim=-1)


def assert_sampled_from(expected: Any, answer: dict[str, Any]) -> None:
    for row, token, top in zip(expected, answer["tokens"], answer["top"], strict=True):
        assert all(abs(stated - float(row[int(name)])) < TOLERANCE for name, stated in top.items())
        assert float(row.max() - row[token]) < TOLERANCE


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore:.*rope:UserWarning")
def test_short_requests_keep_the_rope_of_the_checkpoint_and_long_ones_are_scaled(
    checkpoint: tuple[Path, int], run_engine: RunEngine
) -> None:
    folder, own = checkpoint
    window = Geometry.from_checkpoint(folder).trained_window
    requests = [request(f"{n}", prompt(n), max_tokens=8, arrive=i) for i, n in enumerate((900, 20, 630, own - 7, 200))]
    served = run_engine(LONGROPE, folder, requests, hf_overrides=fields_of(folder))
    for entry in requests:
        length, answer = len(entry["prompt"]), served[entry["id"]]
        tokens = entry["prompt"] + answer["tokens"]
        reached = next(limit for limit in (own, 640, LONGEST) if length <= limit)
        scaled = {"rope_type": "yarn", "factor": reached / window, "original_max_position_embeddings": window}
        rope = None if reached == own else scaled
        assert answer["status"]["tier_max_length"] == reached
        assert_sampled_from(log_probabilities(folder, rope, tokens, outputs=8), answer)


TABLES = """
import json, sys
import torch
from longrope_vllm.plugin import register
register()
from transformers import AutoConfig
from vllm.config import ModelConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import get_rope
folder, fields = sys.argv[1], json.loads(sys.argv[2])
stock = AutoConfig.from_pretrained(folder)
rope = dict(stock.rope_parameters)
if rope["rope_type"] == "dynamic":
    rope["rope_type"] = "default"  # what it means up to the window; vLLM's own table is the one of the longest length
model = ModelConfig(folder, hf_overrides=fields, skip_tokenizer_init=True, dtype="bfloat16")
with set_current_vllm_config(VllmConfig(model_config=model)):
    own = get_rope(32, stock.max_position_embeddings, rope_parameters=rope, dtype=torch.bfloat16)
    tiered = model.hf_text_config.rope_parameters
    ours = get_rope(32, model.max_model_len, rope_parameters=tiered, dtype=torch.bfloat16)
length, offset = ours.served.tiers[0].max_length, ours.served.row_offsets[0]
equal = torch.equal(ours.table.read(torch.arange(offset, offset + length)).bfloat16(), own.cos_sin_cache[:length])
print(equal, length, type(ours).__name__)
"""


def test_the_rows_of_the_own_tier_are_vllms_to_the_last_bit(checkpoint: tuple[Path, int]) -> None:
    pytest.importorskip("vllm", reason="the tables are vLLM's")
    folder, own = checkpoint
    done = subprocess.run(
        [sys.executable, "-c", TABLES, str(folder), json.dumps(fields_of(folder))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    equal, length, kind = done.stdout.strip().splitlines()[-1].split()
    assert (equal, int(length), kind) == ("True", own, "TieredRotaryEmbedding")


LONGER = """
import json, sys
import torch
from longrope_vllm.plugin import register
register()
from longrope_vllm.rope import cos_sin_rows, rescaled_inverse_frequencies
from vllm.config import ModelConfig, VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import get_rope
model = ModelConfig(sys.argv[1], hf_overrides=json.loads(sys.argv[2]), skip_tokenizer_init=True, dtype="float32")
with set_current_vllm_config(VllmConfig(model_config=model)):
    rope = model.hf_text_config.rope_parameters
    ours = get_rope(32, model.max_model_len, rope_parameters=rope, dtype=torch.float32)
tier = ours.served.tiers[-1]
expected = cos_sin_rows(rescaled_inverse_frequencies(32, 1e4, tier.factors), tier.max_length)
found = ours.table.read(torch.arange(tier.max_length))
print((found - expected).abs().max().item() < 1e-6, ours.served.is_own(tier), tier.max_length)
"""


def test_a_tier_like_the_own_rope_but_longer_than_vllms_table_has_exact_rows(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="the tables are vLLM's")
    folder = tiny_llama(tmp_path, rope={"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0})
    config = read_config(folder)
    factors = Factors.from_baselines([(2 * WINDOW, "own"), (LONGEST, "none")], Geometry.from_config(config))
    longer = dataclasses.replace(factors.tiers[0], max_length=LONGEST)
    fields = portable_fields(config, dataclasses.replace(factors, tiers=(factors.tiers[0], longer)))
    done = subprocess.run(
        [sys.executable, "-c", LONGER, str(folder), json.dumps(fields)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1].split() == ["True", "True", str(LONGEST)]
