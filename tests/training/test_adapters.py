"""Oracles: the model before it was wrapped, and the adapters' formula ``W + 2 B A`` (LoRA, arXiv 2106.09685)."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.tolerances import TOLERANCE
from longrope_training.model.adapters import merged, trainable_share, with_adapters
from longrope_training.model.document_attention import register_document_attention
from longrope_training.model.loss_head import LossHead, put_loss_head
from longrope_training.model.tier_rope import tier_rope
from longrope_vllm import Factors, Geometry
from longrope_vllm.backward.tiled_mlp import tile_mlps
from longrope_vllm.errors import TrainingError
from longrope_vllm.hf import put_rotary, take_out
from tiny_models import LONG
from training_models import tiny_model, tokens_of

NAMES = ["llama", "tied", "qwen3", "phi3"]


def logits_of(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(tokens, use_cache=False).logits
    return logits


def train(model: Any, head: LossHead, *, steps: int = 3) -> list[float]:
    """A few steps on one row; its losses."""
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    tokens, losses = tokens_of(40), []
    for _ in range(steps):
        head.targets = torch.cat([tokens[:, 1:], torch.full((1, 1), -100)], dim=1)
        loss = model(tokens, use_cache=False).logits / 39
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    head.targets = None
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_adapters_norms_and_embeddings_are_trained_and_nothing_else(name: str) -> None:
    model = tiny_model(name)
    plain = {key for key, _ in model.named_parameters()}
    put_loss_head(model)
    wrapped = with_adapters(model, 4)
    found = {
        key.removeprefix("base_model.model.") for key, weight in wrapped.named_parameters() if weight.requires_grad
    }
    adapters = {key for key in found if "lora_" in key}
    whole = {key.replace(".modules_to_save.default", "") for key in found - adapters}
    linear = {key for key in plain if key.endswith("proj.weight")}
    assert whole == {key for key in plain if "norm" in key or "embed_tokens" in key}
    assert adapters == {key.replace(".weight", f".lora_{half}.default.weight") for key in linear for half in "AB"}


@pytest.mark.parametrize("name", NAMES)
def test_a_merged_model_answers_as_its_adapters_did_under_the_names_it_had(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, tokens = tiny_model(name), tokens_of(40)
    before = copy.deepcopy(model)
    head = put_loss_head(model)
    wrapped = with_adapters(model, 4)
    torch.testing.assert_close(logits_of(wrapped, tokens), logits_of(before, tokens))
    losses = train(wrapped, head)
    assert losses[-1] < losses[0]
    expected = logits_of(wrapped, tokens)
    assert float((expected - logits_of(before, tokens)).abs().max()) > 0.1
    plain = merged(wrapped)
    torch.testing.assert_close(logits_of(plain, tokens), expected, rtol=TOLERANCE[torch.float32], atol=1e-4)
    assert plain.state_dict().keys() == before.state_dict().keys()
    assert plain.lm_head is head
    tied = name == "tied"
    assert (plain.lm_head.weight is plain.get_input_embeddings().weight) == tied
    assert torch.equal(plain.lm_head.weight, before.lm_head.weight) == (not tied)
    plain.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).train()
    assert torch.equal(logits_of(loaded, tokens), logits_of(plain, tokens))


def test_an_adapter_adds_twice_its_product() -> None:
    model = tiny_model("llama")
    before = model.model.layers[1].mlp.up_proj.weight.detach().clone()
    wrapped = with_adapters(model, 4)
    layer = model.model.layers[1].mlp.up_proj
    torch.manual_seed(3)
    nn.init.normal_(layer.lora_B.default.weight)
    product = layer.lora_B.default.weight.detach() @ layer.lora_A.default.weight.detach()
    found = merged(wrapped).model.layers[1].mlp.up_proj.weight
    torch.testing.assert_close(found, before + 2 * product)


@pytest.mark.parametrize("name", ["llama", "tied"])
def test_what_was_trained_comes_back_from_the_adapters_state(name: str) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    models = []
    for _ in range(2):
        model = tiny_model(name)
        models.append((put_loss_head(model), with_adapters(model, 4)))
    (head, trained), (_, fresh) = models
    train(trained, head)
    state = {key: value.clone() for key, value in get_peft_model_state_dict(trained).items()}
    set_peft_model_state_dict(fresh, state)
    assert torch.equal(logits_of(fresh, tokens_of(40)), logits_of(trained, tokens_of(40)))


def test_adapters_work_with_the_other_parts() -> None:
    model = tiny_model("tied")
    model.set_attn_implementation(register_document_attention())
    factors = Factors.from_baseline("yarn", Geometry.from_config(model.config.to_dict()), LONG)
    replaced = put_rotary(model, tier_rope({"long": (factors, factors.tiers[-1])}))
    head = put_loss_head(model)
    tile_mlps(model, 16)
    wrapped = with_adapters(model, 4)
    wrapped.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    losses = train(wrapped, head)
    assert losses[-1] < losses[0]
    expected = logits_of(wrapped, tokens_of(40))
    plain = merged(wrapped)
    torch.testing.assert_close(logits_of(plain, tokens_of(40)), expected, rtol=TOLERANCE[torch.float32], atol=1e-4)
    take_out(replaced)
    assert type(plain.model.rotary_emb).__name__ == "LlamaRotaryEmbedding"


def test_what_is_trained_is_float32_and_the_merged_model_is_what_it_was() -> None:
    model = tiny_model("tied").to(torch.bfloat16)
    head = put_loss_head(model)
    wrapped = with_adapters(model, 4)
    for weight in wrapped.parameters():
        assert weight.dtype is (torch.float32 if weight.requires_grad else torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        train(wrapped, head)
    plain = merged(wrapped)
    assert {weight.dtype for weight in plain.parameters()} == {torch.bfloat16}
    assert plain.lm_head.weight is plain.get_input_embeddings().weight


def test_beside_weights_that_zero_shares_out_everything_has_their_dtype() -> None:
    """Nothing casts an embedding in float32 for the layers in bfloat16 there."""
    model = tiny_model("llama").to(torch.bfloat16)
    for weight in model.parameters():
        weight.ds_numel = weight.numel()  # as ZeRO marks them
    assert {weight.dtype for weight in with_adapters(model, 4).parameters()} == {torch.bfloat16}
    assert model(tokens_of(8), use_cache=False).logits.dtype == torch.bfloat16


def test_the_share_that_is_trained_counts_each_weight_once() -> None:
    model = tiny_model("tied")
    every = sum(weight.numel() for weight in model.parameters())
    assert trainable_share(model) == (every, every)
    trained, total = trainable_share(with_adapters(model, 4))
    narrow, wide, keys = 128, 256, 64  # hidden size, width of the MLP, width of keys
    pairs = [(narrow, narrow)] * 2 + [(narrow, keys)] * 2 + [(narrow, wide)] * 3
    adapters = 2 * sum(4 * (one + other) for one, other in pairs)
    whole = 128 * narrow + 5 * narrow  # embeddings, five norms
    assert trained == adapters + whole
    assert total == every + adapters + whole


def test_a_model_without_linear_layers_in_its_layers_is_refused() -> None:
    model = tiny_model("llama")
    model.model.layers = nn.ModuleList()
    with pytest.raises(TrainingError, match="found none in LlamaForCausalLM"):
        with_adapters(model, 4)
