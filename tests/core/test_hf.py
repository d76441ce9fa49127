"""Oracles: the same random model loaded by transformers with the tier as its longrope block, and itself untouched."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.tolerances import LOGITS
from longrope_vllm import Factors, Origin, Tier
from longrope_vllm.errors import CheckpointError, FactorsError
from longrope_vllm.hf import FixedRotaryEmbedding, fixed_rope
from longrope_vllm.rope import RopeTable

WINDOW, LONG = 64, 512

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.15,  # sharp attention: a wrong rotation changes the logits
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
ROTARY_DIM = {"llama": 16, "phi3": 12}
PARTIAL = {"llama": {}, "phi3": {"partial_rotary_factor": 0.75}}
FAMILIES = list(ROTARY_DIM)

LONG_TIER = {
    family: Tier(
        max_length=LONG,
        factors=tuple(1.0 + 2.3 * i for i in range(rotary_dim // 2)),
        attention_factor=1.25,
    )
    for family, rotary_dim in ROTARY_DIM.items()
}


def factors_for(family: str, *, base: float = 10_000.0) -> Factors:
    rotary_dim = ROTARY_DIM[family]
    return Factors(
        rotary_dim=rotary_dim,
        base=base,
        trained_window=WINDOW,
        tiers=(Tier(max_length=WINDOW, factors=(1.0,) * (rotary_dim // 2)), LONG_TIER[family]),
        origin=Origin(method="search"),
    )


def random_model(family: str, **changes: Any) -> nn.Module:
    """A random model of the family, float32, the same weights for every rope block."""
    import transformers

    config_class, model_class = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
        "cohere": (transformers.CohereConfig, transformers.CohereForCausalLM),
        "glm": (transformers.GlmConfig, transformers.GlmForCausalLM),
    }[family]
    rope = {"rope_type": "default", "rope_theta": 10_000.0, **PARTIAL.get(family, {})}
    fields = SIZES | {"rope_parameters": rope, "original_max_position_embeddings": WINDOW} | changes
    if family != "phi3":
        fields.pop("original_max_position_embeddings")
    torch.manual_seed(0)
    return model_class(config_class(**fields)).eval()


def with_tier_in_its_config(family: str, tier: Tier) -> nn.Module:
    """The same weights, with transformers' own longrope turning every position by ``tier``."""
    block = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": list(tier.factors),
        "long_factor": list(tier.factors),
        "attention_factor": tier.attention_factor,
        "original_max_position_embeddings": WINDOW,
        **PARTIAL[family],
    }
    return random_model(family, rope_parameters=block, max_position_embeddings=LONG)


def longrope_model(family: str) -> nn.Module:
    """A two-tier longrope checkpoint as transformers loads it: its rotary module switches by length."""
    short, long = factors_for(family).tiers
    block = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": list(short.factors),
        "long_factor": list(long.factors),
        "attention_factor": 1.25,
        "original_max_position_embeddings": WINDOW,
        **PARTIAL[family],
    }
    return random_model(family, rope_parameters=block, max_position_embeddings=LONG)


def tokens(length: int) -> Tensor:
    return torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def logits(model: nn.Module, given: Tensor) -> Tensor:
    found: Tensor = model(given).logits
    return found


def rotary_modules(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__.endswith("RotaryEmbedding")]


each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
@pytest.mark.parametrize("length", [3, WINDOW, WINDOW + 1, LONG])
def test_a_tier_gives_the_logits_of_transformers_with_that_tier(family: str, length: int) -> None:
    model, given = random_model(family), tokens(length)
    expected = logits(with_tier_in_its_config(family, LONG_TIER[family]), given)
    with fixed_rope(model, factors_for(family), length=LONG) as tier:
        assert tier is not None
        assert tier.max_length == LONG
        found = logits(model, given)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=LOGITS)


@each_family
def test_the_logits_would_tell_another_rotation(family: str) -> None:
    """The comparison above means something: the untouched model is far away at every length past one token."""
    model, given = random_model(family), tokens(WINDOW)
    with fixed_rope(model, factors_for(family), length=LONG):
        found = logits(model, given)
    assert (found - logits(model, given)).abs().max() > 100 * LOGITS


@each_family
def test_the_plain_tier_equals_the_untouched_model(family: str) -> None:
    model, given = random_model(family), tokens(WINDOW)
    expected = logits(model, given)
    with fixed_rope(model, factors_for(family), length=WINDOW) as tier:
        assert tier.is_plain
        found = logits(model, given)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=LOGITS / 10)


@each_family
def test_what_is_taken_out_leaves_the_model_bitwise_as_before(family: str) -> None:
    model, given = random_model(family), tokens(WINDOW)
    modules, expected = rotary_modules(model), logits(model, given)
    with fixed_rope(model, factors_for(family), length=LONG):
        assert all(isinstance(module, FixedRotaryEmbedding) for module in rotary_modules(model))
    assert rotary_modules(model) == modules
    assert torch.equal(logits(model, given), expected)


@each_family
def test_a_longrope_model_is_bitwise_as_before_as_well(family: str) -> None:
    model, given, long = longrope_model(family), tokens(WINDOW), tokens(LONG)
    expected = logits(model, given), logits(model, long)
    with fixed_rope(model, factors_for(family), length=LONG):
        logits(model, long)
    assert torch.equal(logits(model, given), expected[0])
    assert torch.equal(logits(model, long), expected[1])


@each_family
def test_the_model_is_restored_after_an_exception(family: str) -> None:
    model = random_model(family)
    modules = rotary_modules(model)
    with pytest.raises(KeyError), fixed_rope(model, factors_for(family), length=LONG):
        raise KeyError
    assert rotary_modules(model) == modules


@each_family
def test_a_longrope_checkpoint_is_really_fixed(family: str) -> None:
    """A prefix has the logits it has alone also at the head of a long pass, where transformers switches rotation."""
    model, long = longrope_model(family), tokens(LONG)
    prefix = long[:, :20]
    switching = (logits(model, prefix) - logits(model, long)[:, :20]).abs().max()
    assert switching > 100 * LOGITS
    for length in (WINDOW, LONG):
        with fixed_rope(model, factors_for(family), length=length):
            alone = logits(model, prefix)
            within = logits(model, long[:, :length])[:, :20]
        torch.testing.assert_close(within, alone, rtol=0.0, atol=LOGITS)


@each_family
def test_a_cached_pass_equals_one_pass(family: str) -> None:
    model, given = longrope_model(family), tokens(WINDOW + 20)
    with fixed_rope(model, factors_for(family), length=LONG), torch.no_grad():
        whole = model(given).logits
        first = model(given[:, : WINDOW - 4], use_cache=True)
        rest = model(given[:, WINDOW - 4 :], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(torch.cat((first.logits, rest), dim=1), whole, rtol=0.0, atol=LOGITS)


def test_start_tokens_keep_their_plain_rotation() -> None:
    """All of a sequence within the start tokens is the untouched model."""
    model, given = random_model("llama"), tokens(16)
    tier = Tier(max_length=LONG, factors=LONG_TIER["llama"].factors, attention_factor=1.25, start_tokens=16)
    factors = Factors(
        rotary_dim=16, base=10_000.0, trained_window=WINDOW, tiers=(tier,), origin=Origin(method="search")
    )
    expected = logits(model, given)
    with fixed_rope(model, factors, length=LONG):
        found = logits(model, given)
        past_them = logits(model, tokens(40))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=LOGITS / 10)
    assert (past_them - logits(model, tokens(40))).abs().max() > 100 * LOGITS


@each_family
def test_a_position_past_the_tier_is_refused_by_number(family: str) -> None:
    model = random_model(family)
    with (
        fixed_rope(model, factors_for(family), length=WINDOW),
        pytest.raises(FactorsError, match=rf"below {WINDOW}, found {WINDOW}"),
    ):
        logits(model, tokens(WINDOW + 1))


def test_a_length_past_the_last_tier_is_refused() -> None:
    model = random_model("llama")
    with pytest.raises(FactorsError, match=str(LONG)), fixed_rope(model, factors_for("llama"), length=LONG + 1):
        pass


@each_family
def test_factors_of_another_model_are_refused_before_anything_is_replaced(family: str) -> None:
    model = random_model(family)
    modules = rotary_modules(model)
    with (
        pytest.raises(FactorsError, match="base"),
        fixed_rope(model, factors_for(family, base=500_000.0), length=LONG),
    ):
        pass
    assert rotary_modules(model) == modules


def test_an_interleaved_layout_is_refused_and_left_untouched() -> None:
    model, given = random_model("cohere"), tokens(20)
    modules, expected = rotary_modules(model), logits(model, given)
    with (
        pytest.raises(CheckpointError, match=r"half-split rotary layout.*CohereRotaryEmbedding"),
        fixed_rope(model, factors_for("llama"), length=LONG),
    ):
        pass
    assert rotary_modules(model) == modules
    assert torch.equal(logits(model, given), expected)


def test_a_model_that_interleaves_by_itself_is_rotated_rightly() -> None:
    """GLM asks its rotary module for half-split rows and interleaves them where they are applied."""
    changes = {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    model, given = random_model("glm", **changes, partial_rotary_factor=1.0), tokens(WINDOW)
    expected = logits(model, given)
    with fixed_rope(model, factors_for("llama"), length=WINDOW):
        found = logits(model, given)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=LOGITS / 10)


def test_one_unsupported_rotary_module_leaves_the_others_in_place() -> None:
    """Checked all before any is replaced."""
    model = random_model("llama")
    interleaved = rotary_modules(random_model("cohere"))[0]
    interleaved.config = copy.deepcopy(model.config)
    model.model.later = interleaved
    modules = rotary_modules(model)
    with pytest.raises(CheckpointError), fixed_rope(model, factors_for("llama"), length=LONG):
        pass
    assert rotary_modules(model) == modules


def test_a_model_without_a_rotary_module_is_refused() -> None:
    model = random_model("llama")
    del model.model.rotary_emb
    with (
        pytest.raises(CheckpointError, match="LlamaForCausalLM"),
        fixed_rope(model, factors_for("llama"), length=LONG),
    ):
        pass


def test_a_multimodal_rope_is_refused_and_left_untouched() -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = {key: value for key, value in SIZES.items() if key != "attn_implementation"}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 64}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))
    modules = rotary_modules(model)
    with (
        pytest.raises(CheckpointError, match="multimodal rope"),
        fixed_rope(model, factors_for("llama"), length=LONG),
    ):
        pass
    assert rotary_modules(model) == modules


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_in_the_dtype_of_the_states_and_repeat_each_half(dtype: torch.dtype) -> None:
    rows = torch.arange(24, dtype=torch.float32).view(4, 6)
    cos, sin = FixedRotaryEmbedding(RopeTable.of_rows(rows), 4)(torch.zeros(1, dtype=dtype), torch.tensor([[3, 0]]))
    assert cos.dtype is sin.dtype is dtype
    assert cos.tolist() == [[[18.0, 19.0, 20.0] * 2, [0.0, 1.0, 2.0] * 2]]
    assert sin.tolist() == [[[21.0, 22.0, 23.0] * 2, [3.0, 4.0, 5.0] * 2]]


def test_nothing_is_added_to_the_state_dict() -> None:
    model = random_model("llama")
    before = set(model.state_dict())
    with fixed_rope(model, factors_for("llama"), length=LONG):
        assert set(model.state_dict()) == before
