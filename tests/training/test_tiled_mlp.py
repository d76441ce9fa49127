"""Oracle: the same model with whole MLPs."""

import pytest
import torch
from torch import nn

from core.tolerances import LOGITS
from largest_tensor import LargestTensor
from longrope_vllm.backward.tiled_mlp import tile_mlps
from training_models import gradients_of, tiny_model, tokens_of


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_pieces_change_neither_answers_nor_gradients(name: str, checkpointing: bool) -> None:
    tokens, models = tokens_of(37), (tiny_model(name), tiny_model(name))
    tile_mlps(models[1], 16)
    found = []
    for model in models:
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        logits = model(tokens, use_cache=False).logits
        logits.logsumexp(-1).mean().backward()
        found.append((logits.detach(), gradients_of(model)))
    (whole, expected), (tiled, gradients) = found
    torch.testing.assert_close(tiled, whole, rtol=0.0, atol=LOGITS)
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-5, atol=1e-6)


def test_no_tensor_is_as_wide_as_the_mlp_and_as_long_as_the_row() -> None:
    model, states = tiny_model("llama", intermediate_size=1024), torch.randn(1, 512, 128, requires_grad=True)
    mlp = model.model.layers[0].mlp.requires_grad_(False)
    largest = []
    for _ in range(2):
        with LargestTensor() as recorder:
            mlp(states).sum().backward()
        largest.append(recorder.elements)
        tile_mlps(model, 64)
    assert largest == [512 * 1024, 512 * 128]


def test_names_of_weights_stay() -> None:
    model = tiny_model("llama")
    before = list(model.state_dict())
    modules = dict(model.named_modules())
    tile_mlps(model, 8)
    assert list(model.state_dict()) == before
    assert dict(model.named_modules()) == modules


def test_hooks_of_the_mlp_run_once_and_see_the_whole_row() -> None:
    model, seen = tiny_model("llama"), []
    tile_mlps(model, 8)
    mlp = model.model.layers[0].mlp
    mlp.register_forward_hook(lambda module, given, answer: seen.append((given[0].shape, answer.shape)))
    model(tokens_of(20), use_cache=False)
    assert seen == [(torch.Size([1, 20, 128]),) * 2]


def test_layers_with_experts_stay_as_they_are() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = MixtralConfig(vocab_size=16, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1, **sizes)
    assert not tile_mlps(MixtralForCausalLM(config), 8)
    assert not tile_mlps(nn.Linear(2, 2), 8)
