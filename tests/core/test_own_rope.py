"""The rope a checkpoint states for itself, against transformers' own functions for each type."""

from typing import Any

import pytest
import torch

from longrope_vllm import Factors, Geometry
from longrope_vllm.errors import CheckpointError, FactorsError
from longrope_vllm.factors import own_tier
from longrope_vllm.factors_file import document_from_factors, factors_from_document
from longrope_vllm.rope import own_length, own_rope, rescaled_inverse_frequencies

WINDOW = 2048
BLOCKS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    "yarn with betas": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 24.0,
        "beta_slow": 2.0,
        "truncate": False,
        "attention_factor": 1.25,
    },
    "yarn with mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "short_factor": [1 + 0.01 * pair for pair in range(16)],
        "long_factor": [1 + 0.5 * pair for pair in range(16)],
    },
}
LENGTHS = {"default": 2048, "linear": 8192, "dynamic": 2048, "llama3": 2048, "longrope": 512}
"""Tokens each is for; yarn: 512 stretched by 4."""


def config_of(block: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": 128,
        "num_attention_heads": 4,
        "max_position_embeddings": WINDOW,
        "rope_parameters": {**block, "rope_theta": 10_000.0},
    }


@pytest.mark.parametrize("name", BLOCKS)
def test_frequencies_and_magnitude_are_those_of_transformers(name: str) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = config_of(BLOCKS[name])
    found = own_rope(Geometry.from_config(config))
    frequencies = rescaled_inverse_frequencies(32, 10_000.0, found.factors)
    rope_type = BLOCKS[name]["rope_type"]
    if rope_type == "default":
        expected, magnitude = 10_000.0 ** (-torch.arange(0, 32, 2).double() / 32), 1.0
    else:
        expected, magnitude = ROPE_INIT_FUNCTIONS[rope_type](LlamaConfig(**config), "cpu", seq_len=64)
    torch.testing.assert_close(frequencies.float(), expected.float(), rtol=1e-6, atol=0.0)
    assert found.attention_factor == pytest.approx(magnitude, rel=1e-9)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_own_tier_reaches_as_far_as_its_rope_is_for(name: str) -> None:
    geometry = Geometry.from_config(config_of(BLOCKS[name]))
    assert own_tier(geometry).max_length == own_length(geometry) == LENGTHS.get(name, 2048)


@pytest.mark.parametrize("length", [4096, 8192])
def test_a_dynamic_rope_is_that_of_transformers_at_any_length(length: int) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = config_of(BLOCKS["dynamic"])
    factors = Factors.from_baselines([(length, "own")], Geometry.from_config(config))
    assert [tier.max_length for tier in factors.tiers] == [2048, length]
    expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](LlamaConfig(**config), "cpu", seq_len=length)
    found = rescaled_inverse_frequencies(32, 10_000.0, factors.tiers[-1].factors)
    torch.testing.assert_close(found.float(), expected.float(), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"rope_type": "deepseek_yarn", "factor": 4.0}, "deepseek_yarn"),
        ({"rope_type": "yarn", "factor": 4.0, "attn_factor": 2.0}, "attn_factor"),
        ({"rope_type": "default", "mrope_section": [4, 6, 6]}, "M-RoPE"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
    ],
)
def test_a_rope_that_would_be_served_as_another_is_refused_by_field(block: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        own_rope(Geometry.from_config(config_of(block)))


def test_tiers_by_methods_start_with_the_own_rope() -> None:
    geometry = Geometry.from_config(config_of(BLOCKS["llama3"]))
    factors = Factors.from_baselines([(8192, "yarn"), (32768, "pi")], geometry)
    assert factors.tiers[0] == own_tier(geometry)
    assert [tier.max_length for tier in factors.tiers] == [2048, 8192, 32768]
    assert factors.tiers[1].factors[-1] == pytest.approx(8192 / 512)
    assert factors.tiers[2].factors == (64.0,) * 16
    assert factors.origin.method == "yarn and pi"


def test_tiers_within_the_own_length_replace_it() -> None:
    geometry = Geometry.from_config(config_of(BLOCKS["yarn"]))
    factors = Factors.from_baselines([(512, "none"), (2048, "own")], geometry)
    assert [(tier.max_length, tier.is_plain) for tier in factors.tiers] == [(512, True), (2048, False)]
    assert factors.tiers[1] == own_tier(geometry)


def test_the_own_rope_is_not_stretched_by_naming_a_longer_length() -> None:
    with pytest.raises(FactorsError, match="up to 2048 for the checkpoint's own rope, found 4096"):
        Factors.from_baselines([(4096, "own")], Geometry.from_config(config_of(BLOCKS["llama3"])))


@pytest.mark.parametrize("name", BLOCKS)
def test_the_file_keeps_the_rope_that_factors_were_made_for(name: str) -> None:
    geometry = Geometry.from_config(config_of(BLOCKS[name]))
    factors = Factors.from_baselines([(16384, "yarn")], geometry)
    again = factors_from_document(document_from_factors(factors))
    assert again == factors
    again.check_fits(geometry)


def test_factors_for_another_scaling_do_not_fit() -> None:
    factors = Factors.from_baselines([(16384, "yarn")], Geometry.from_config(config_of(BLOCKS["yarn"])))
    other = Geometry.from_config(config_of({**BLOCKS["yarn"], "factor": 2.0}))
    with pytest.raises(FactorsError, match=r"yarn rope \(factor 2.0\), found some for a yarn rope \(factor 4.0\)"):
        factors.check_fits(other)
