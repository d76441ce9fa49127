"""Tiny random checkpoints, made in a moment: enough to tell one rotation from another, nothing to say about quality."""

import json
from pathlib import Path

import torch
from longrope_vllm import Factors, Geometry, write_rope

WINDOW = 256
"""Trained window of the tiny models, in tokens: two KV blocks of the CPU engine."""
LONG = 1024
VOCABULARY = 128


def tiny_llama(folder: Path, *, rope: dict[str, object] | None = None, seed: int = 0) -> Path:
    """A random Llama of 4 layers with a plain rope (or the given block), saved under ``folder``.

    The attention weights are large, so that attention is sharp and a wrong rotation changes the answer.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=WINDOW,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        rope_parameters=rope or {"rope_type": "default", "rope_theta": 10_000.0},
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def stretched(folder: Path, *, method: str = "yarn", max_length: int = LONG) -> Path:
    """``folder`` made a longrope checkpoint by ``method``, in place."""
    write_rope(folder, Factors.from_baseline(method, Geometry.from_checkpoint(folder), max_length))
    return folder


def long_for_all(folder: Path) -> Path:
    """A longrope checkpoint edited so that stock vLLM's float32 table of its long factors serves every length."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    block = config["rope_parameters"]
    block["short_factor"], block["short_mscale"] = block["long_factor"], block["long_mscale"]
    path.write_text(json.dumps(config, indent=2))
    return folder
