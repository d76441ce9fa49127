"""Older names of rope fields: GPT-NeoX and checkpoints with code of their own state base and rotated part by them.

Oracles: the rotary module of transformers for GPT-NeoX, and the order in which vLLM asks for the names.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from core.tolerances import assert_relatively_close
from longrope_vllm import Geometry
from longrope_vllm.errors import CheckpointError
from longrope_vllm.rope import inverse_frequencies
from tiny_models import stretched

Config = dict[str, Any]

PYTHIA: Config = {
    "model_type": "gpt_neox",
    "hidden_size": 512,
    "num_attention_heads": 8,
    "max_position_embeddings": 2048,
    "rotary_emb_base": 20_000,
    "rotary_pct": 0.25,
}
OWN_CODE: Config = {name: value for name, value in PYTHIA.items() if not name.startswith("rotary")}


def test_gpt_neox_is_rotated_as_in_transformers() -> None:
    from transformers import GPTNeoXConfig
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding

    config = GPTNeoXConfig(**PYTHIA)
    geometry = Geometry.from_config(PYTHIA)
    assert (geometry.head_size, geometry.rotary_dim, geometry.base) == (64, 16, 20_000.0)
    frequencies = inverse_frequencies(geometry.rotary_dim, geometry.base)
    assert_relatively_close(GPTNeoXRotaryEmbedding(config).inv_freq, frequencies, computed_in=torch.float32)
    assert Geometry.from_config(config.to_dict()) == geometry


STATED: list[Config] = [
    {"rotary_pct": 0.5, "rotary_emb_base": 20_000},
    {"rotary_emb_fraction": 0.5, "rope_theta": 20_000},
    {"partial_rotary_factor": 0.5, "rotary_emb_base": 20_000},
    {"partial_rotary_factor": 0.5, "rotary_pct": 0.5, "rotary_emb_fraction": None, "rope_theta": 20_000},
    {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}, "rotary_emb_base": 20_000},
]


@pytest.mark.parametrize("stated", STATED, ids=lambda stated: "-".join(stated))
def test_every_name_says_the_same(stated: Config) -> None:
    geometry = Geometry.from_config(OWN_CODE | stated)
    assert (geometry.rotary_dim, geometry.base) == (32, 20_000.0)


@pytest.mark.vllm
@pytest.mark.parametrize("stated", STATED, ids=lambda stated: "-".join(stated))
def test_vllm_reads_the_same_names(stated: Config) -> None:
    pytest.importorskip("vllm")
    from transformers import PreTrainedConfig
    from vllm.transformers_utils.config import patch_rope_parameters

    config = PreTrainedConfig(**OWN_CODE | {name: value for name, value in stated.items() if value is not None})
    patch_rope_parameters(config)
    assert config.rope_parameters["partial_rotary_factor"] == 0.5
    assert config.rope_parameters["rope_theta"] == 20_000


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"partial_rotary_factor": 0.5, "rotary_pct": 0.25}, "0.5 as partial_rotary_factor and 0.25 as rotary_pct"),
        ({"rotary_pct": 0.5, "rotary_emb_fraction": 0.25}, "0.5 as rotary_pct and 0.25 as rotary_emb_fraction"),
        ({"rope_theta": 5e5, "rotary_emb_base": 10_000}, "500000 as rope_theta and 10000 as rotary_emb_base"),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rotary_emb_base": 10_000},
            "500000 as rope_theta and 10000 as rotary_emb_base",
        ),
    ],
)
def test_names_that_say_different_things_are_refused_with_both(stated: Config, named: str) -> None:
    with pytest.raises(CheckpointError, match=f"^Expected one .* found {named}: .* remove all but one.$"):
        Geometry.from_config(OWN_CODE | stated)


@pytest.mark.parametrize("name", ["rotary_pct", "rotary_emb_fraction", "rotary_emb_base"])
@pytest.mark.parametrize("value", ["half", -1.0, True, float("nan")])
def test_a_bad_value_is_told_by_the_name_it_has(name: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"as {name} in config.json"):
        Geometry.from_config(OWN_CODE | {name: value})


def test_a_stretched_gpt_neox_keeps_its_base_and_its_rotated_part(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig

    (tmp_path / "config.json").write_text(json.dumps(PYTHIA))
    read = GPTNeoXConfig.from_pretrained(stretched(tmp_path, max_length=8192)).rope_parameters
    assert (read["rope_type"], read["rope_theta"], read["partial_rotary_factor"]) == ("longrope", 20_000, 0.25)
    assert Geometry.from_checkpoint(tmp_path).rotary_dim == 16
