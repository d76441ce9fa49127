"""Oracles: the fixed table of one tier, the rope of the checkpoint itself, and the whole row in one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.tolerances import LOGITS
from longrope_training.model.tier_rope import TierRope, tier_rope
from longrope_vllm import Factors, Geometry
from longrope_vllm.errors import FactorsError
from longrope_vllm.hf import fixed_rope, put_rotary, take_out
from tiny_models import LONG, WINDOW, tiny_phi3
from training_models import gradients_of, tiny_model, tokens_of


def factors_of(model: Any) -> Factors:
    return Factors.from_baseline("yarn", Geometry.from_config(model.config.to_dict()), LONG)


def rope_of(factors: Factors) -> TierRope:
    own, long = factors.tiers
    return tier_rope({"short": (factors, own), "long": (factors, long)})


def logits_of(model: Any, tokens: Tensor, **inputs: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(tokens, use_cache=False, **inputs).logits
    return logits


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3"])
def test_each_row_is_turned_by_the_rope_that_is_named(name: str) -> None:
    model, tokens = tiny_model(name).eval(), tokens_of(40)
    factors = factors_of(model)
    own = logits_of(model, tokens)
    with fixed_rope(model, factors, length=LONG):
        stretched = logits_of(model, tokens)
    rope = rope_of(factors)
    replaced = put_rotary(model, rope)
    assert float((logits_of(model, tokens) - own).abs().max()) <= LOGITS  # the first, until another is named
    rope.use("long")
    assert torch.equal(logits_of(model, tokens), stretched)
    rope.use("short")
    assert float((logits_of(model, tokens) - own).abs().max()) <= LOGITS
    assert float((stretched - own).abs().max()) > 0.01
    take_out(replaced)
    assert torch.equal(logits_of(model, tokens), own)


def test_both_halves_of_a_row_are_turned_alike(tmp_path: Path) -> None:
    """The rope of transformers looks at the largest position of a half, and turns the first by the short factors."""
    from transformers import AutoModelForCausalLM

    checkpoint = tiny_phi3(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint).model.rotary_emb
    geometry = Geometry.from_checkpoint(checkpoint)
    rope = rope_of(Factors.from_baseline("yarn", geometry, LONG))
    rope.use("long")
    positions, x = torch.arange(2 * WINDOW)[None], torch.zeros(1)
    halves = positions.chunk(2, dim=1)
    ours = torch.cat([rope(x, half)[0] for half in halves], dim=1)
    assert torch.equal(ours, rope(x, positions)[0])
    switched = torch.cat([theirs(x, half)[0] for half in halves], dim=1)
    assert float((switched - theirs(x, positions)[0]).abs().max()) > 0.1


def test_a_rope_named_between_the_ways_changes_no_gradient() -> None:
    model, tokens = tiny_model("llama"), tokens_of(40)
    rope = rope_of(factors_of(model))
    put_rotary(model, rope)
    rope.use("long")
    model(tokens, use_cache=False).logits.square().mean().backward()
    expected = gradients_of(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    loss = model(tokens, use_cache=False).logits.square().mean()
    rope.use("short")
    loss.backward()
    for key, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, expected[key])


def test_casting_a_model_leaves_the_tables_in_float32() -> None:
    model = tiny_model("llama")
    rope = rope_of(factors_of(model))
    put_rotary(model, rope)
    positions = torch.arange(WINDOW)[None]
    exact = rope(torch.zeros(1), positions)[0]
    model.to(torch.bfloat16)
    model.half()
    assert torch.equal(rope(torch.zeros(1), positions)[0], exact)
    assert model.lm_head.weight.dtype is torch.float16
    assert rope(torch.zeros(1, dtype=torch.bfloat16), positions)[0].dtype is torch.bfloat16


def test_the_tables_follow_the_model_to_its_device() -> None:
    rope = rope_of(factors_of(tiny_model("llama")))
    rope.to("meta")
    assert {buffer.device.type for buffer in rope.buffers()} == {"meta"}


def test_a_checkpoint_holds_no_tables() -> None:
    model = tiny_model("llama")
    before = list(model.state_dict())
    put_rotary(model, rope_of(factors_of(model)))
    assert list(model.state_dict()) == before


def test_positions_past_a_tier_are_refused() -> None:
    rope = rope_of(factors_of(tiny_model("llama")))
    position = torch.tensor([[WINDOW]])
    with pytest.raises(FactorsError, match=f"positions below {WINDOW}, found {WINDOW}"):
        rope(torch.zeros(1), position)
    rope.use("long")
    assert rope(torch.zeros(1), position)[0].shape == (1, 1, 32)


def test_a_rope_that_is_not_there_cannot_be_named() -> None:
    rope = rope_of(factors_of(tiny_model("llama")))
    with pytest.raises(AssertionError, match="'middle' is none of short, long"):
        rope.use("middle")
