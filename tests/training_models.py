"""Tiny models in memory, in float32 and with two layers, as training is given them."""

from typing import Any

import torch

from tiny_models import SHAPE, VOCABULARY, WINDOW

PLAIN: dict[str, object] = {"rope_type": "default", "rope_theta": 10_000.0}


def tiny_model(name: str, *, seed: int = 0, **settings: object) -> Any:
    """A random ``llama``, ``tied`` (a Llama with one matrix at both ends), ``qwen3``, ``phi3`` or ``mistral``."""
    import transformers

    config_type, model_type, own = {
        "llama": ("LlamaConfig", "LlamaForCausalLM", {"head_dim": 32}),
        "tied": ("LlamaConfig", "LlamaForCausalLM", {"head_dim": 32, "tie_word_embeddings": True}),
        "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 32}),
        "phi3": ("Phi3Config", "Phi3ForCausalLM", {"original_max_position_embeddings": WINDOW}),
        "mistral": ("MistralConfig", "MistralForCausalLM", {"head_dim": 32, "sliding_window": 64}),
    }[name]
    torch.manual_seed(seed)
    shape = SHAPE | {"num_hidden_layers": 2, "max_position_embeddings": WINDOW, "rope_parameters": PLAIN}
    config = getattr(transformers, config_type)(**(shape | own | settings))
    return getattr(transformers, model_type)(config).train()


def tokens_of(length: int, *, seed: int = 1) -> torch.Tensor:
    """Random ids, int64, shape [1, length]."""
    return torch.randint(3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by the names of their parameters, taken away from the model."""
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
