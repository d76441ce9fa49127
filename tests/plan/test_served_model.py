"""What the planner reads of a checkpoint: parameters, bytes, experts, windows, and what it does not plan."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from longrope_vllm.errors import PlanError
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.plan.sliding import sliding_layers
from longrope_vllm.weights import HEAD, INDEX
from published_models import LLAMA3_8B, LLAMA3_70B, MIXTRAL_8X7B, PARAMETERS, PHI3_MINI, SMOLLM2, saved


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_that_were_published(name: str) -> None:
    config, published = PARAMETERS[name]
    model = ServedModel.of(config)
    assert (model.parameters, model.counted) == (published, "config")
    assert model.weight_bytes == 2 * published


def test_a_token_goes_through_two_of_eight_experts() -> None:
    model = ServedModel.of(MIXTRAL_8X7B)
    assert model.active + model.embeddings == pytest.approx(12.88e9, rel=1e-3)  # as Mixtral's paper counts


def test_files_are_counted_and_their_format_is_that_of_serving(tmp_path: Path) -> None:
    folder = saved(tmp_path / "tiny", SMOLLM2)
    save_file({"one": torch.zeros(30, 100), "two": torch.zeros(7)}, folder / "model.safetensors")  # in float32
    model = ServedModel.of(SMOLLM2, folder)
    assert (model.counted, model.dtype, model.parameters) == ("files", "bfloat16", 3007)
    assert model.weight_bytes == 2 * 3007
    assert ServedModel.of(SMOLLM2, folder, dtype="float32").weight_bytes == 4 * 3007
    quantized = SMOLLM2 | {"quantization_config": {"quant_method": "of-the-future"}}
    assert ServedModel.of(quantized, folder).weight_bytes == 4 * 3007  # as they are


def test_an_index_without_its_files_is_enough(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", LLAMA3_8B | {"model_type": "unheard-of"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 16_000_000_000}, "weight_map": {}}))
    model = ServedModel.of(LLAMA3_8B, folder)
    assert (model.counted, model.weight_bytes, model.parameters) == ("index", 16_000_000_000, 8_000_000_000)
    stored_in_float32 = ServedModel.of(LLAMA3_8B | {"torch_dtype": "float32"}, folder)
    assert (stored_in_float32.weight_bytes, stored_in_float32.parameters) == (8_000_000_000, 4_000_000_000)
    assert ServedModel.of(LLAMA3_8B, folder, dtype="float32").weight_bytes == 32_000_000_000


def test_a_head_that_is_the_embedding_is_counted_once(tmp_path: Path) -> None:
    folder = saved(tmp_path / "tiny", SMOLLM2)
    save_file({"model.embed_tokens.weight": torch.ones(30), HEAD: torch.ones(30)}, folder / "model.safetensors")
    assert ServedModel.of(SMOLLM2, folder).parameters == 30
    assert ServedModel.of(SMOLLM2 | {"tie_word_embeddings": False}, folder).parameters == 60


def test_windows_are_read_as_vllm_reads_them() -> None:
    every = ServedModel.of(PHI3_MINI)
    assert (every.window, every.sliding_layers) == (2047, 32)
    kinds = ["sliding_attention", "full_attention"] * 16
    half = ServedModel.of(LLAMA3_8B | {"sliding_window": 4096, "layer_types": kinds})
    assert (half.window, half.sliding_layers) == (4096, 16)
    for none in ({"use_sliding_window": False}, {"layer_types": ["full_attention"] * 32}):
        assert ServedModel.of(LLAMA3_8B | {"sliding_window": 4096, **none}).window == 0


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *((kind, {}) for kind in ("mistral", "mixtral", "phi3", "phimoe", "starcoder2", "gemma2", "cohere2")),
        ("gemma3_text", {"sliding_window_pattern": 4}),
        ("qwen2", {}),
        ("qwen3", {"use_sliding_window": True, "max_window_layers": 8}),
    ],
)
def test_layers_that_are_not_listed_have_the_window_as_transformers_gives_it(kind: str, more: dict[str, Any]) -> None:
    stated = {"num_hidden_layers": 10, "sliding_window": 4096, "pad_token_id": None, **more}
    theirs = AutoConfig.for_model(kind, **stated)
    listed = getattr(theirs, "layer_types", None) or ["sliding_attention"] * 10
    expected = listed.count("sliding_attention") if theirs.sliding_window else 0
    assert sliding_layers({"model_type": kind, **stated}, 10) == ((4096, expected) if expected else (0, 0))


def test_a_window_that_may_be_any_layers_is_refused() -> None:
    with pytest.raises(PlanError, match="Expected layer_types beside sliding_window"):
        ServedModel.of(LLAMA3_8B | {"sliding_window": 4096})


@pytest.mark.parametrize(
    ("quantization", "gigabytes"),
    [({"quant_method": "fp8"}, 72.7), ({"quant_method": "awq", "bits": 4}, 39.8)],
)
def test_quantized_weights_take_their_bits_their_scales_and_whole_embeddings(
    quantization: dict[str, Any], gigabytes: float
) -> None:
    """68.45 billion in a byte, or half a byte and 2.5 more for each 128, and 2.1 billion in two bytes."""
    model = ServedModel.of(LLAMA3_70B | {"quantization_config": quantization})
    assert model.weight_bytes == pytest.approx(gigabytes * 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"mamba_d_state": 16}, "state-space"),
        ({"layer_types": ["linear_attention"] * 32}, "linear_attention in layer_types"),
        ({"num_kv_shared_layers": 4}, "share a cache"),
        ({"model_type": "gpt_neox"}, "found config.json of gpt_neox alone"),
        ({"vision_config": {}}, "more than text"),
        ({"quantization_config": {"quant_method": "new"}}, "'new' without"),
    ],
)
def test_what_is_not_planned_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        ServedModel.of(LLAMA3_8B | fields)


def test_the_reach_is_that_of_the_rope() -> None:
    assert ServedModel.of(SMOLLM2).reach == 8192
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
    assert ServedModel.of(SMOLLM2 | {"rope_scaling": yarn}).reach == 32768
