"""Oracles: transformers and vLLM reading the written block with their own code, and the bytes on disk."""

import copy
import json
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from core.tolerances import assert_relatively_close
from longrope_vllm import Factors, Geometry, Origin, Tier, read_rope_block, undo_rope, write_rope
from longrope_vllm.errors import CheckpointError, FactorsError
from longrope_vllm.geometry import read_config, rope_parameters
from longrope_vllm.rope import longrope_attention_factor, rescaled_inverse_frequencies
from longrope_vllm.rope_block import BACKUP_NAME, TIERS_KEY, portable_fields
from longrope_vllm.rope_lint import lint

Config = dict[str, Any]

LLAMA: Config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 4096,
    "note": "größer",
}
NEW = LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
OLD = LLAMA | {"rope_theta": 500000.0, "rope_scaling": None}
PARTIAL_NEW = LLAMA | {
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.75}
}
PARTIAL_OLD = OLD | {"partial_rotary_factor": 0.75}
MULTIMODAL = {"model_type": "llava", "text_config": NEW, "vision_config": {"hidden_size": 8}}
SPELLINGS = {
    "new": NEW,
    "old": OLD,
    "partial-new": PARTIAL_NEW,
    "partial-old": PARTIAL_OLD,
    "multimodal": MULTIMODAL,
}
TRANSFORMERS_READS = {name: SPELLINGS[name] for name in ("new", "old", "partial-new", "partial-old")}

each_spelling = pytest.mark.parametrize("config", SPELLINGS.values(), ids=SPELLINGS)
each_text_spelling = pytest.mark.parametrize("config", TRANSFORMERS_READS.values(), ids=TRANSFORMERS_READS)


def checkpoint(folder: Path, config: Config) -> Path:
    """A folder with this config in a layout of its own, so that only a copy restores its bytes."""
    (folder / "config.json").write_text(json.dumps(config, indent=7, ensure_ascii=True))
    return folder


def factors_for(config: Config, *, long: int = 131072, magnitude: float | None = None) -> Factors:
    """A plain tier and a searched-looking long one, both with the same magnitude."""
    geometry = Geometry.from_config(config)
    value = longrope_attention_factor(long / 4096, 4096) if magnitude is None else magnitude
    pairs = geometry.pairs
    return Factors(
        rotary_dim=geometry.rotary_dim,
        base=geometry.base,
        trained_window=4096,
        tiers=(
            Tier(max_length=4096, factors=tuple(1.0 + 0.01 * i for i in range(pairs)), attention_factor=value),
            Tier(max_length=long, factors=tuple(1.0 + 3.1 * i for i in range(pairs)), attention_factor=value),
        ),
        origin=Origin(method="search"),
    )


def block_of(folder: Path) -> Config:
    config = read_config(folder)
    text = config.get("text_config", config)
    block: Config = text.get("rope_parameters") or text["rope_scaling"]
    return block


# writing and reading back


@each_spelling
def test_what_is_written_reads_back_equal(tmp_path: Path, config: Config) -> None:
    factors = factors_for(config)
    assert write_rope(checkpoint(tmp_path, config), factors) == tmp_path / "config.json"
    found = read_rope_block(read_config(tmp_path))
    assert found is not None
    assert found.tiers == factors.tiers
    found.check_fits(Geometry.from_config(config))
    assert Geometry.from_checkpoint(tmp_path).max_positions == 131072


@each_spelling
def test_only_the_rope_fields_change(tmp_path: Path, config: Config) -> None:
    write_rope(checkpoint(tmp_path, config), factors_for(config))
    rope = {"rope_parameters", "rope_scaling", "max_position_embeddings", "original_max_position_embeddings"}
    now = read_config(tmp_path)
    before, after = config.get("text_config", config), now.get("text_config", now)
    assert {key: after[key] for key in after.keys() - rope} == {key: before[key] for key in before.keys() - rope}
    assert {key: now[key] for key in now.keys() - rope - {"text_config"}} == {
        key: config[key] for key in config.keys() - rope - {"text_config"}
    }


def test_the_spelling_of_the_checkpoint_is_kept(tmp_path: Path) -> None:
    for name, other, config in (("rope_parameters", "rope_scaling", NEW), ("rope_scaling", "rope_parameters", OLD)):
        fields = portable_fields(config, factors_for(config))
        assert fields[name]["rope_type"] == "longrope"
        assert other not in fields


def test_a_config_in_both_spellings_is_rewritten_in_both(tmp_path: Path) -> None:
    config = NEW | {"rope_scaling": NEW["rope_parameters"]}
    write_rope(checkpoint(tmp_path, config), factors_for(config))
    now = read_config(tmp_path)
    assert now["rope_scaling"] == now["rope_parameters"]
    assert now["rope_scaling"]["rope_type"] == "longrope"


@each_spelling
def test_a_portable_block_states_what_every_engine_reads(config: Config) -> None:
    factors = factors_for(config)
    fields = portable_fields(config, factors)
    block = fields.get("rope_parameters") or fields["rope_scaling"]
    magnitude = factors.tiers[0].attention_factor
    assert {name: block[name] for name in ("attention_factor", "short_mscale", "long_mscale")} == dict.fromkeys(
        ("attention_factor", "short_mscale", "long_mscale"), magnitude
    )
    assert (block["factor"], block["original_max_position_embeddings"]) == (32.0, 4096)
    assert fields["original_max_position_embeddings"] == 4096


def test_the_plain_tier_is_added_to_factors_that_state_only_the_long_one(tmp_path: Path) -> None:
    both = factors_for(NEW, magnitude=1.0)
    only_long = Factors(
        rotary_dim=16, base=500000.0, trained_window=4096, tiers=both.tiers[1:], origin=Origin(method="search")
    )
    write_rope(checkpoint(tmp_path, NEW), only_long)
    assert block_of(tmp_path)["short_factor"] == [1.0] * 8


# the same file in other engines


@each_text_spelling
def test_transformers_reads_our_frequencies_and_attention_factor(tmp_path: Path, config: Config) -> None:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    factors = factors_for(config)
    write_rope(checkpoint(tmp_path, config), factors)
    read = AutoConfig.from_pretrained(tmp_path)
    assert read.rope_parameters["rope_type"] == "longrope"
    assert read.max_position_embeddings == 131072
    for tier, length in zip(factors.tiers, (4096, 4097), strict=True):
        frequencies, attention_factor = ROPE_INIT_FUNCTIONS["longrope"](read, seq_len=length)
        expected = rescaled_inverse_frequencies(factors.rotary_dim, factors.base, tier.factors)
        assert_relatively_close(frequencies, expected, computed_in=torch.float32)
        assert attention_factor == tier.attention_factor


@each_text_spelling
def test_vllm_reads_our_frequencies_and_attention_factor(tmp_path: Path, config: Config) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports use deprecated parts of torch
        pytest.importorskip("vllm")
        from vllm.config import ModelConfig, VllmConfig, set_current_vllm_config
        from vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope import (
            Phi3LongRoPEScaledRotaryEmbedding,
        )
        from vllm.transformers_utils.config import get_config

        factors = factors_for(config, long=8192)
        write_rope(checkpoint(tmp_path, config), factors)
        read = get_config(str(tmp_path), trust_remote_code=False)
        engine = VllmConfig(
            model_config=ModelConfig(str(tmp_path), max_model_len=8192, dtype="float32", skip_tokenizer_init=True)
        )
        rope = read.rope_parameters
        with set_current_vllm_config(engine):
            theirs = Phi3LongRoPEScaledRotaryEmbedding(
                16,
                int(16 * rope.get("partial_rotary_factor", 1.0)),
                read.max_position_embeddings,
                rope["original_max_position_embeddings"],
                rope["rope_theta"],
                True,
                torch.float32,
                rope["short_factor"],
                rope["long_factor"],
                rope["short_mscale"],
                rope["long_mscale"],
            )
    short, long = factors.tiers
    for tier, listed, mscale in (
        (short, theirs.short_factor, theirs.short_mscale),
        (long, theirs.long_factor, theirs.long_mscale),
    ):
        expected = rescaled_inverse_frequencies(factors.rotary_dim, factors.base, tier.factors)
        assert_relatively_close(theirs._compute_inv_freq(listed), expected, computed_in=torch.float32)
        assert mscale == tier.attention_factor


# undo


@each_spelling
def test_undo_restores_the_file_byte_for_byte(tmp_path: Path, config: Config) -> None:
    before = (checkpoint(tmp_path, config) / "config.json").read_bytes()
    write_rope(tmp_path, factors_for(config))
    assert (tmp_path / "config.json").read_bytes() != before
    assert (tmp_path / BACKUP_NAME).read_bytes() == before
    undo_rope(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    assert not (tmp_path / BACKUP_NAME).exists()


def test_applying_twice_keeps_the_first_backup(tmp_path: Path) -> None:
    before = (checkpoint(tmp_path, NEW) / "config.json").read_bytes()
    write_rope(tmp_path, factors_for(NEW))
    write_rope(tmp_path, factors_for(NEW, long=65536))
    assert (tmp_path / BACKUP_NAME).read_bytes() == before
    assert read_config(tmp_path)["max_position_embeddings"] == 65536
    undo_rope(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


def test_undo_without_apply_is_refused(tmp_path: Path) -> None:
    before = (checkpoint(tmp_path, NEW) / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="nothing was applied"):
        undo_rope(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


EDITS = {
    "changed": lambda config: config | {"bos_token_id": 7},
    "added": lambda config: config | {"quantization_config": {"bits": 4}},
    "removed": lambda config: {key: value for key, value in config.items() if key != "note"},
    "base": lambda config: config | {"rope_theta": 1e6},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("spelling", ["old", "multimodal"])
@pytest.mark.parametrize(
    "again", [undo_rope, lambda folder: write_rope(folder, factors_for(NEW))], ids=["undo", "apply"]
)
def test_an_edit_in_between_is_never_lost(tmp_path: Path, edit: Any, spelling: str, again: Any) -> None:
    config = SPELLINGS[spelling]
    write_rope(checkpoint(tmp_path, config), factors_for(config))
    edited = read_config(tmp_path)
    if spelling == "multimodal":
        edited["text_config"] = edit(edited["text_config"])
    else:
        edited = edit(edited)
    (tmp_path / "config.json").write_text(json.dumps(edited))
    with pytest.raises(CheckpointError, match="so that your edit is not lost"):
        again(tmp_path)
    assert read_config(tmp_path) == edited
    assert (tmp_path / BACKUP_NAME).exists()


def test_a_broken_backup_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    write_rope(checkpoint(tmp_path, NEW), factors_for(NEW))
    applied = (tmp_path / "config.json").read_bytes()
    (tmp_path / BACKUP_NAME).write_text("{")
    for again in (undo_rope, lambda folder: write_rope(folder, factors_for(NEW))):
        with pytest.raises(CheckpointError, match=BACKUP_NAME):
            again(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == applied


# what the two lists of a rope block cannot say


def with_start_tokens(factors: Factors) -> Factors:
    short, long = factors.tiers
    tiers = (short, Tier(max_length=long.max_length, factors=long.factors, start_tokens=4))
    return Factors(rotary_dim=16, base=500000.0, trained_window=4096, tiers=tiers, origin=factors.origin)


def with_three_tiers(factors: Factors) -> Factors:
    tiers = (*factors.tiers, Tier(max_length=2**20, factors=factors.tiers[-1].factors))
    return Factors(rotary_dim=16, base=500000.0, trained_window=4096, tiers=tiers, origin=factors.origin)


@pytest.mark.parametrize("change", [with_start_tokens, with_three_tiers])
def test_tiers_that_a_block_cannot_say_stand_beside_it_and_are_read_back(tmp_path: Path, change: Any) -> None:
    factors = change(factors_for(NEW))
    write_rope(checkpoint(tmp_path, NEW), factors)
    config = read_config(tmp_path)
    assert read_rope_block(config) == factors
    block, last = rope_parameters(config), factors.tiers[-1]
    assert block["short_factor"] == list(factors.tiers[0].factors)
    assert block["long_factor"] == list(last.factors)
    assert (config["original_max_position_embeddings"], config["max_position_embeddings"]) == (4096, last.max_length)
    undo_rope(tmp_path)
    assert read_config(tmp_path) == NEW


def test_two_plain_tiers_need_no_key_of_our_own(tmp_path: Path) -> None:
    write_rope(checkpoint(tmp_path, NEW), factors_for(NEW))
    assert TIERS_KEY not in read_config(tmp_path)


@pytest.mark.parametrize(
    "field", ["max_position_embeddings", "original_max_position_embeddings", "long_factor", "long_mscale"]
)
def test_a_block_edited_apart_from_our_key_is_refused_by_field(field: str, tmp_path: Path) -> None:
    write_rope(checkpoint(tmp_path, NEW), with_three_tiers(factors_for(NEW)))
    config = read_config(tmp_path)
    if field.startswith("long_"):
        config["rope_parameters"][field] = [2.0] * 8 if field == "long_factor" else 9.0
    else:
        config[field] = config[field] // 2
        if field == "original_max_position_embeddings":
            config["rope_parameters"][field] = config[field]
    with pytest.raises(CheckpointError, match=f"Expected {field} of the rope block to agree with {TIERS_KEY}"):
        read_rope_block(config)


def test_a_broken_key_of_our_own_is_named() -> None:
    config = {**NEW, **portable_fields(NEW, with_three_tiers(factors_for(NEW)))}
    config[TIERS_KEY] = {**config[TIERS_KEY], "tiers": []}
    with pytest.raises(CheckpointError, match=f"under {TIERS_KEY} in config.json"):
        read_rope_block(config)


def test_factors_of_the_same_model_can_be_put_over_applied_ones(tmp_path: Path) -> None:
    factors = with_three_tiers(factors_for(NEW))
    config = {**NEW, **portable_fields(NEW, factors)}
    assert portable_fields(config, factors)[TIERS_KEY] == config[TIERS_KEY]
    two = factors_for(NEW)
    replaced = read_rope_block({**config, **portable_fields(config, two)})  # as a server lays them over the config
    assert replaced is not None
    assert replaced.tiers == two.tiers
    write_rope(checkpoint(tmp_path, config), two)  # a checkpoint that came with tiers, without a backup
    assert TIERS_KEY not in read_config(tmp_path)
    again = read_rope_block(read_config(tmp_path))
    assert again is not None
    assert again.tiers == two.tiers
    with pytest.raises(FactorsError, match="another model"):
        portable_fields(config, of_another_model(factors))


# refusals


def of_another_model(factors: Factors) -> Factors:
    return Factors(rotary_dim=16, base=10000.0, trained_window=4096, tiers=factors.tiers, origin=factors.origin)


def of_the_trained_window_only(factors: Factors) -> Factors:
    return Factors(rotary_dim=16, base=500000.0, trained_window=4096, tiers=factors.tiers[:1], origin=factors.origin)


@pytest.mark.parametrize("change", [of_the_trained_window_only, of_another_model])
def test_a_refused_apply_leaves_the_folder_as_it_was(tmp_path: Path, change: Any) -> None:
    before = (checkpoint(tmp_path, NEW) / "config.json").read_bytes()
    with pytest.raises(FactorsError):
        write_rope(tmp_path, change(factors_for(NEW)))
    assert (tmp_path / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_an_apply_on_a_full_disk_leaves_the_folder_as_it_was(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NEW))
    before = (tmp_path / "config.json").read_bytes()
    # The backup fits and the new file does not.
    with full_disk(len(before) + 1), pytest.raises(OSError, match="File too large"):
        write_rope(tmp_path, factors_for(NEW))
    assert (tmp_path / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("missing", ["folder", "config"])
def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "nowhere" if missing == "folder" else tmp_path
    with pytest.raises(CheckpointError):
        write_rope(folder, factors_for(NEW))
    assert list(tmp_path.iterdir()) == []


# reading blocks found in checkpoints

PHI3: Config = {
    "model_type": "phi3",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "type": "su",
        "short_factor": [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.05, 1.1],
        "long_factor": [1.0, 1.1, 1.2, 4.0, 8.0, 30.0, 60.0, 64.0],
    },
}


def phi3(**changes: Any) -> Config:
    config = copy.deepcopy(PHI3)
    config["rope_scaling"] |= changes
    return config


def magnitudes(config: Config) -> tuple[float, ...]:
    found = read_rope_block(config)
    assert found is not None
    return tuple(tier.attention_factor for tier in found.tiers)


def test_a_plain_rope_has_no_longrope_block() -> None:
    assert read_rope_block(NEW) is None


def test_magnitudes_are_derived_from_the_lengths_where_none_is_stated() -> None:
    assert magnitudes(PHI3) == pytest.approx((1.190238, 1.190238), abs=5e-7)


def test_magnitudes_are_derived_from_a_stated_factor() -> None:
    assert magnitudes(phi3(factor=8.0)) == pytest.approx((1.118034, 1.118034), abs=5e-7)


def test_a_stated_attention_factor_counts_for_both_tiers() -> None:
    assert magnitudes(phi3(attention_factor=1.3)) == (1.3, 1.3)


def test_stated_mscales_count_for_their_own_tier() -> None:
    assert magnitudes(phi3(short_mscale=1.1, long_mscale=1.243, attention_factor=1.3)) == (1.1, 1.243)


@pytest.mark.parametrize("field", ["factor", "attention_factor", "short_mscale", "long_mscale"])
@pytest.mark.parametrize("bad", [0, -1.0, "1.2", True, float("nan"), float("inf"), [1.0]])
def test_a_bad_magnitude_is_refused_by_name(field: str, bad: Any) -> None:
    with pytest.raises(CheckpointError, match=field):
        read_rope_block(phi3(**{field: bad}))


@pytest.mark.parametrize("field", ["short_factor", "long_factor"])
@pytest.mark.parametrize(
    "bad", [None, 1.0, "1.0", [], [1.0] * 7, ["1.0"] * 8, [True] * 8, [0.0] * 8, [float("nan")] * 8]
)
def test_a_bad_factor_list_is_refused(field: str, bad: Any) -> None:
    with pytest.raises((CheckpointError, FactorsError), match="Expected"):
        read_rope_block(phi3(**{field: bad}))


def test_a_checkpoint_that_was_not_stretched_has_one_tier() -> None:
    found = read_rope_block(PHI3 | {"max_position_embeddings": 4096})
    assert found is not None
    assert [tier.max_length for tier in found.tiers] == [4096]
    assert found.tiers[0].attention_factor == 1.0


# lint


@each_spelling
def test_a_portable_block_with_equal_magnitudes_has_no_findings(tmp_path: Path, config: Config) -> None:
    write_rope(checkpoint(tmp_path, config), factors_for(config))
    assert lint(read_config(tmp_path)) == []


def test_a_plain_rope_has_no_findings() -> None:
    assert lint(NEW) == []


def test_a_block_as_released_is_found_to_leave_the_magnitudes_to_the_engines() -> None:
    assert lint(PHI3) == [
        "short_mscale is not stated: vLLM derives it from the lengths",
        "long_mscale is not stated: vLLM derives it from the lengths",
        "factor and attention_factor are not stated: transformers derives them from the lengths",
    ]


def test_an_original_length_only_in_the_block_is_found() -> None:
    config = phi3(original_max_position_embeddings=4096)
    del config["original_max_position_embeddings"]
    assert any("missing at the top level" in finding for finding in lint(config))


def test_different_magnitudes_are_found() -> None:
    findings = lint(phi3(short_mscale=1.0, long_mscale=1.19, attention_factor=1.19))
    assert findings == [
        "the magnitudes differ (short 1, long 1.19): transformers applies attention_factor to both",
    ]


def test_magnitudes_that_two_engines_read_differently_are_found() -> None:
    findings = lint(phi3(short_mscale=1.3, long_mscale=1.3, attention_factor=1.19))
    assert findings == [
        "attention_factor 1.19 and long_mscale 1.3 differ: transformers takes the first, vLLM the second"
    ]


def test_long_factors_that_fall_are_found() -> None:
    config = phi3(short_mscale=1.0, long_mscale=1.0, attention_factor=1.0)
    config["rope_scaling"]["long_factor"][3] = 0.5
    assert lint(config) == ["the long factors are not non-decreasing, unlike searched ones"]
