"""Oracles: the published geometry of each family, and the rotary modules of transformers built from the same fields."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.tolerances import assert_relatively_close
from longrope_vllm import Geometry
from longrope_vllm.errors import CheckpointError
from longrope_vllm.geometry import read_config
from longrope_vllm.rope import inverse_frequencies

Config = dict[str, Any]

LLAMA2: Config = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rope_scaling": None,
}
LLAMA31: Config = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
MISTRAL: Config = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
}
QWEN2: Config = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
}
QWEN3: Config = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000},
}
PHI3_4K: Config = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rope_scaling": None,
}
PHI3_128K: Config = PHI3_4K | {
    "max_position_embeddings": 131072,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0 + i for i in range(48)]},
}
PHI3_128K_SU: Config = PHI3_128K | {"rope_scaling": PHI3_128K["rope_scaling"] | {"type": "su"}}
PHI4_MINI: Config = {
    "model_type": "phi3",
    "hidden_size": 3072,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0 + i for i in range(48)]},
}
MINICPM4: Config = {
    "model_type": "minicpm",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": [0.9978] + [1.0] * 63,
        "long_factor": [0.9978] + [2.0] * 63,
        "original_max_position_embeddings": 32768,
    },
}
MINICPM3: Config = {
    "model_type": "minicpm3",
    "hidden_size": 2560,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "max_position_embeddings": 32768,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0] * 16,
        "long_factor": [1.5] * 16,
        "original_max_position_embeddings": 32768,
    },
}
MULTIMODAL: Config = {"model_type": "llava", "vision_config": {"hidden_size": 1024}, "text_config": MISTRAL}

FAMILIES = {
    "llama2": (LLAMA2, (128, 128, 1e4, 4096, 4096, "default")),
    "llama3.1": (LLAMA31, (128, 128, 5e5, 8192, 131072, "llama3")),
    "mistral": (MISTRAL, (128, 128, 1e4, 32768, 32768, "default")),
    "qwen2": (QWEN2, (128, 128, 1e6, 32768, 32768, "default")),
    "qwen3": (QWEN3, (128, 128, 1e6, 40960, 40960, "default")),
    "phi3-mini-4k": (PHI3_4K, (96, 96, 1e4, 4096, 4096, "default")),
    "phi3-mini-128k": (PHI3_128K, (96, 96, 1e4, 4096, 131072, "longrope")),
    "phi3-mini-128k-su": (PHI3_128K_SU, (96, 96, 1e4, 4096, 131072, "longrope")),
    "phi4-mini": (PHI4_MINI, (128, 96, 1e4, 4096, 131072, "longrope")),
    "minicpm4": (MINICPM4, (128, 128, 1e4, 32768, 32768, "longrope")),
    "minicpm3": (MINICPM3, (32, 32, 1e4, 32768, 32768, "longrope")),
    "multimodal": (MULTIMODAL, (128, 128, 1e4, 32768, 32768, "default")),
}


def in_new_spelling(config: Config) -> Config:
    """The same rope as transformers 5 writes it: base and partial factor inside ``rope_parameters``."""
    renamed = {key: value for key, value in config.items() if key not in ("rope_scaling", "rope_theta")}
    block = {"rope_theta": config.get("rope_theta", 10000.0), **(config["rope_scaling"] or {"type": "default"})}
    block["rope_type"] = block.pop("type", block.get("rope_type"))
    if "partial_rotary_factor" in config:
        block["partial_rotary_factor"] = renamed.pop("partial_rotary_factor")
    return renamed | {"rope_parameters": block}


@pytest.mark.parametrize(("config", "expected"), FAMILIES.values(), ids=FAMILIES)
def test_each_family_is_read_as_published(config: Config, expected: tuple[object, ...]) -> None:
    found = Geometry.from_config(config)
    assert (
        found.head_size,
        found.rotary_dim,
        found.base,
        found.trained_window,
        found.max_positions,
        found.rope_type,
    ) == expected
    assert found.pairs == found.rotary_dim // 2


@pytest.mark.parametrize("family", ["llama2", "llama3.1", "phi3-mini-128k", "phi4-mini", "minicpm4", "minicpm3"])
def test_both_spellings_of_the_rope_block_read_alike(family: str) -> None:
    config, _ = FAMILIES[family]
    assert Geometry.from_config(in_new_spelling(config)) == Geometry.from_config(config)


@pytest.mark.parametrize("family", ["llama2", "mistral", "qwen2", "qwen3", "phi3-mini-128k", "phi4-mini", "minicpm3"])
def test_geometry_equals_the_rotary_module_of_transformers(family: str) -> None:
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.models.minicpm3.modeling_minicpm3 import MiniCPM3RotaryEmbedding
    from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    classes = {
        "llama": (transformers.LlamaConfig, LlamaRotaryEmbedding),
        "minicpm3": (transformers.MiniCPM3Config, MiniCPM3RotaryEmbedding),
        "mistral": (transformers.MistralConfig, MistralRotaryEmbedding),
        "phi3": (transformers.Phi3Config, Phi3RotaryEmbedding),
        "qwen2": (transformers.Qwen2Config, Qwen2RotaryEmbedding),
        "qwen3": (transformers.Qwen3Config, Qwen3RotaryEmbedding),
    }
    written, _ = FAMILIES[family]
    config_class, rotary_class = classes[written["model_type"]]
    fields = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, **json.loads(json.dumps(written))}
    config = config_class(**fields)
    geometry = Geometry.from_config(written)
    frequencies = inverse_frequencies(geometry.rotary_dim, geometry.base)  # the short factors above are all 1
    assert_relatively_close(rotary_class(config).inv_freq, frequencies, computed_in=torch.float32)
    saved = Geometry.from_config(config.to_dict())
    assert (saved.rotary_dim, saved.base, saved.trained_window) == (
        geometry.rotary_dim,
        geometry.base,
        geometry.trained_window,
    )


def test_equal_blocks_for_every_layer_type_are_one_rope() -> None:
    block = {"rope_type": "default", "rope_theta": 50000.0}
    nested = {"sliding_attention": block, "full_attention": dict(block)}
    assert Geometry.from_config(MISTRAL | {"rope_parameters": nested}).base == 50000.0


def test_layers_without_a_rope_beside_others_do_not_hide_the_block() -> None:
    nested = {"full_attention": None, "sliding_attention": {"rope_type": "default", "rope_theta": 50000.0}}
    assert Geometry.from_config(MISTRAL | {"rope_parameters": nested}).base == 50000.0


def test_different_blocks_by_layer_type_are_refused_by_name() -> None:
    nested = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
    }
    with pytest.raises(CheckpointError, match="sliding_attention, full_attention"):
        Geometry.from_config(MISTRAL | {"rope_parameters": nested})


def test_two_spellings_that_differ_are_refused() -> None:
    config = LLAMA31 | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    with pytest.raises(CheckpointError, match="rope_parameters and rope_scaling"):
        Geometry.from_config(config)


def test_conflicting_original_lengths_are_refused_with_both_numbers() -> None:
    rope = PHI3_128K["rope_scaling"] | {"original_max_position_embeddings": 8192}
    with pytest.raises(CheckpointError, match=r"4096 in the config and 8192 in its rope block"):
        Geometry.from_config(PHI3_128K | {"rope_scaling": rope})


def test_equal_original_lengths_in_both_places_are_read() -> None:
    rope = PHI3_128K["rope_scaling"] | {"original_max_position_embeddings": 4096}
    assert Geometry.from_config(PHI3_128K | {"rope_scaling": rope}).trained_window == 4096


def test_a_longrope_block_without_the_original_length_is_refused() -> None:
    config = {key: value for key, value in PHI3_128K.items() if key != "original_max_position_embeddings"}
    with pytest.raises(CheckpointError, match="original_max_position_embeddings"):
        Geometry.from_config(config)


BAD_FIELDS: list[tuple[Config, Config, str]] = [
    (MISTRAL, {"max_position_embeddings": None}, "max_position_embeddings"),
    (MISTRAL, {"max_position_embeddings": True}, "max_position_embeddings"),
    (MISTRAL, {"max_position_embeddings": 4096.0}, "max_position_embeddings"),
    (MISTRAL, {"hidden_size": 0}, "hidden_size"),
    (MISTRAL, {"num_attention_heads": "32"}, "num_attention_heads"),
    (MISTRAL, {"hidden_size": 16}, "even number of rotary dimensions"),
    (MISTRAL, {"hidden_size": 33 * 32}, "even number of rotary dimensions"),
    (MISTRAL, {"head_dim": -64}, "head_dim"),
    (MISTRAL, {"partial_rotary_factor": 1.5}, "even number of rotary dimensions"),
    (MISTRAL, {"partial_rotary_factor": 0.0}, "partial_rotary_factor"),
    (MISTRAL, {"partial_rotary_factor": "half"}, "partial_rotary_factor"),
    (MISTRAL, {"partial_rotary_factor": float("nan")}, "partial_rotary_factor"),
    (MISTRAL, {"rope_theta": "10000"}, "rope_theta"),
    (MISTRAL, {"rope_theta": -1.0}, "rope_theta"),
    (MISTRAL, {"rope_theta": True}, "rope_theta"),
    (MISTRAL, {"rope_theta": float("inf")}, "rope_theta"),
    (MISTRAL, {"rope_theta": 10**400}, "rope_theta"),
    (MISTRAL, {"rope_scaling": "yarn"}, "rope block"),
    (MISTRAL, {"rope_scaling": [1.0]}, "rope block"),
    (MINICPM3, {"qk_rope_head_dim": 33}, "even number of rotary dimensions"),
    (PHI3_4K, {"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
]


@pytest.mark.parametrize(("config", "change", "named"), BAD_FIELDS)
def test_a_bad_field_is_one_sentence_that_names_it(config: Config, change: Config, named: str) -> None:
    with pytest.raises(CheckpointError, match=named) as caught:
        Geometry.from_config(config | change)
    message = str(caught.value)
    assert message.startswith("Expected")
    assert message.endswith(".")
    assert "\n" not in message


def test_null_fields_count_as_not_stated() -> None:
    config = MISTRAL | {"rope_theta": None, "partial_rotary_factor": None, "head_dim": None}
    assert Geometry.from_config(config) == Geometry.from_config(LLAMA2 | {"max_position_embeddings": 32768})


JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()) | st.just({})


@given(change=st.dictionaries(st.sampled_from([*PHI4_MINI, "head_dim", "rope_parameters", "text_config"]), JUNK))
def test_junk_in_any_field_is_read_or_refused_and_never_crashes(change: Config) -> None:
    try:
        geometry = Geometry.from_config(PHI4_MINI | change)
    except CheckpointError:
        return
    assert 0 < geometry.rotary_dim <= geometry.head_size
    assert geometry.base > 1.0


def test_a_checkpoint_folder_is_read_like_its_mapping(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3))
    assert Geometry.from_checkpoint(tmp_path) == Geometry.from_config(QWEN3)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        read_config(tmp_path / "nowhere")


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found none"):
        read_config(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"[1]", b'"text"', b"null"])
def test_an_unreadable_config_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^Expected .*config\.json.*\.$"):
        read_config(tmp_path)
