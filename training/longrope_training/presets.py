"""Recipes that were published, and two of our own, as values of ``Recipe`` by field; a user's values lie above them.

A preset never names a model, factors, text or a folder to write to. What its source does not state, and we chose, is
said beside it; what it does not name has the default of ``Recipe``.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_K = 1024

PAPER_LLAMA2 = {
    # LongRoPE, arXiv 2402.13753, section 4.1: LLaMA2-7B, 400 steps on rows of 128k, then 600 on rows of 256k; batch 32,
    # 2e-5 with linear decay. Ours: the decay starts anew with each stage; Adam's settings are the defaults here.
    "stages": ({"length": 128 * _K, "steps": 400}, {"length": 256 * _K, "steps": 600}),
    "batch": 32,
    "learning_rate": 2e-5,
    "learning_rate_schedule": "linear",
}

PAPER_MISTRAL = {
    # LongRoPE, arXiv 2402.13753, section 4.1: Mistral-7B, 400 steps for each of the 128k and the 256k factors, on rows
    # of 16k tokens; batch 64, 1e-6 constant. This is one of the two: give the factors of one, and for both
    # --stage 16k:400:factors-128k.json,16k:400:factors-256k.json. Rows of 16k are past the window of a checkpoint that
    # states it as it was pretrained (original_max_position_embeddings 8192).
    "stages": ({"length": 16 * _K, "steps": 400},),
    "batch": 64,
    "learning_rate": 1e-6,
    "learning_rate_schedule": "constant",
}

LONGROPE2 = {
    # LongRoPE2, arXiv 2502.20082, section 4.1: mixed context window training on 10B tokens at 128k, 9B of them long and
    # 1B short; batch 64, 2e-5 with cosine decay. A step is 64 rows of 131,072 tokens, which is 8,388,608; 10B tokens
    # are 10,000,000,000 / 8,388,608 = 1,192 steps. Ours: the short share by rows, no warm-up.
    "stages": ({"length": 128 * _K, "steps": 1192},),
    "batch": 64,
    "short_share": 0.1,
    "learning_rate": 2e-5,
    "learning_rate_schedule": "cosine",
}

BUDGET = {
    # No source: LongRoPE2's mixed training for one GPU, by adapters with norms and embeddings (LongLoRA, arXiv
    # 2309.12307, of which rank and learning rate are). 300 steps of 8 rows of 64k are 157M tokens. A quarter of the
    # rows is short, because so few steps forget more easily than they learn.
    "stages": ({"length": 64 * _K, "steps": 300},),
    "batch": 8,
    "short_share": 0.25,
    "tuning": "lora",
    "lora_rank": 8,
    "learning_rate": 2e-5,
    "learning_rate_schedule": "constant",
    "warmup": 20,
    "mlp_tokens": 8 * _K,
}

TINY = {
    # No source: four steps of a model of a few layers, for tests and for trying things out on a CPU.
    "stages": ({"length": 512, "steps": 4},),
    "batch": 2,
    "short_share": 0.5,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "constant",
    "dtype": "float32",
    "device": "cpu",
    "save_every": 2,
    "first_loss": None,  # a random model is as bad anywhere
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper-llama2": PAPER_LLAMA2,
        "paper-mistral": PAPER_MISTRAL,
        "longrope2": LONGROPE2,
        "budget": BUDGET,
        "tiny": TINY,
    }
)
"""Name to values by field of ``Recipe``; tables of stages as mappings."""
