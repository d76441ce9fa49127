"""Tiny random checkpoints, made in a moment: enough to tell one rotation from another, nothing to say about quality."""

from pathlib import Path

import torch

from longrope_vllm import Factors, Geometry, write_rope

WINDOW = 256
"""Trained window of the tiny models, in tokens: two KV blocks of the CPU engine."""
LONG = 1024
VOCABULARY = 128


SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,  # large, so that attention is sharp and a wrong rotation changes the answer
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "dtype": "float32",
}


def tiny_llama(
    folder: Path, *, rope: dict[str, object] | None = None, layers: int = 4, seed: int = 0, tied: bool = False
) -> Path:
    """A random Llama with a plain rope (or the given block), saved under ``folder``; more layers make longer steps."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **{**SHAPE, "num_hidden_layers": layers},
        head_dim=32,
        max_position_embeddings=WINDOW,
        rope_parameters=rope or {"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_qwen3(folder: Path, *, rope: dict[str, object] | None = None, seed: int = 0) -> Path:
    """A random Qwen3 with a plain rope (or the given block): queries and keys are normalised before they are turned."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        **SHAPE,
        head_dim=32,
        max_position_embeddings=WINDOW,
        rope_parameters=rope or {"rope_type": "default", "rope_theta": 10_000.0},
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_mistral(folder: Path, *, rope: dict[str, object] | None = None, seed: int = 0) -> Path:
    """A random Mistral with a plain rope (or the given block) whose layers see the last 64 tokens only."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(seed)
    config = MistralConfig(
        **SHAPE,
        head_dim=32,
        sliding_window=64,
        max_position_embeddings=WINDOW,
        rope_parameters=rope or {"rope_type": "default", "rope_theta": 10_000.0},
    )
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


def stretched(folder: Path, *, method: str = "yarn", max_length: int = LONG) -> Path:
    """``folder`` made a longrope checkpoint by ``method``, in place."""
    write_rope(folder, Factors.from_baseline(method, Geometry.from_checkpoint(folder), max_length))
    return folder


def byte_tokenizer(folder: Path) -> Path:
    """Give the checkpoint a tokenizer of one token a character (ASCII), so that lengths in tests are exact."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {chr(code): code for code in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=chr(0)))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=chr(0))
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    return folder


def plain_phi3(folder: Path, *, seed: int = 0) -> Path:
    """A random Phi-3 with a plain rope: three quarters of a head are turned, the projections are fused."""
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(seed)
    config = Phi3Config(
        **SHAPE,
        max_position_embeddings=WINDOW,
        original_max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75},
    )
    Phi3ForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_phi3(folder: Path, *, seed: int = 0) -> Path:
    """A random Phi-3 with a plain longrope block of its own: partial rotary, fused projections, short factors not 1."""
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(seed)
    pairs = 12  # three quarters of a head of 32
    config = Phi3Config(
        **SHAPE,
        max_position_embeddings=LONG,
        original_max_position_embeddings=WINDOW,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.75,
            "factor": LONG / WINDOW,
            "original_max_position_embeddings": WINDOW,
            "short_factor": [1 + 0.02 * pair for pair in range(pairs)],
            "long_factor": [1 + 0.3 * pair for pair in range(pairs)],
        },
    )
    Phi3ForCausalLM(config).save_pretrained(folder)
    return folder
