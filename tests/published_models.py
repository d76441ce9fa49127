"""Configurations of published models, with the numbers of parameters that their makers or the hub state."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}

LLAMA3_8B = _LLAMA | {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
LLAMA3_70B = LLAMA3_8B | {
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "intermediate_size": 28672,
}
LLAMA2_7B = _LLAMA | {
    "torch_dtype": "float16",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
PHI3_MINI = {
    "model_type": "phi3",
    "torch_dtype": "bfloat16",
    "hidden_size": 3072,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 8192,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
}
MISTRAL_7B = LLAMA3_8B | {
    "model_type": "mistral",
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
}
MIXTRAL_8X7B = MISTRAL_7B | {
    "model_type": "mixtral",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
SMOLLM2 = _LLAMA | {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}

PARAMETERS: Mapping[str, tuple[dict[str, Any], int]] = {
    "Llama 3 8B": (LLAMA3_8B, 8_030_261_248),
    "Llama 3 70B": (LLAMA3_70B, 70_553_706_496),
    "LLaMA 2 7B": (LLAMA2_7B, 6_738_415_616),
    "Phi-3 mini": (PHI3_MINI, 3_821_079_552),
    "Mistral 7B": (MISTRAL_7B, 7_241_732_096),
    "Mixtral 8x7B": (MIXTRAL_8X7B, 46_702_792_704),
    "SmolLM2 135M": (SMOLLM2, 134_515_008),
}


def saved(folder: Path, config: Mapping[str, Any]) -> Path:
    """A checkpoint of ``config.json`` alone."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder
