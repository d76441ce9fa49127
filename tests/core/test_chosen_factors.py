"""``--factors``, ``--preset`` and ``--tiers``, as every command takes them."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.chosen_factors import ChosenFactors, add_factor_options, parse_tiers
from longrope_vllm.errors import FactorsError, LongRopeError
from longrope_vllm.presets import load_preset
from longrope_vllm.rope_block import TIERS_KEY, portable_fields

PRESET = "smollm2-135m"
CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}


def chosen(*options: str) -> ChosenFactors:
    parser = argparse.ArgumentParser()
    add_factor_options(parser)
    return ChosenFactors.from_arguments(parser.parse_args(options))


def test_nothing_chosen_leaves_the_checkpoint_alone() -> None:
    assert chosen().for_config(CONFIG) is None


def test_methods_by_length_make_the_tiers_of_closed_forms() -> None:
    factors = chosen("--tiers", "8k:yarn, 32768:pi").for_config(CONFIG)
    assert factors == Factors.from_baselines([(8192, "yarn"), (32768, "pi")], Geometry.from_config(CONFIG))


def test_a_file_is_read(tmp_path: Path) -> None:
    factors = Factors.from_baseline("ntk", Geometry.from_config(CONFIG), 8192)
    write_factors(tmp_path / "factors.json", factors)
    assert chosen("--factors", str(tmp_path / "factors.json")).for_config(CONFIG) == factors


def test_a_preset_is_read_from_the_package() -> None:
    assert chosen("--preset", PRESET).for_config(CONFIG) == load_preset(PRESET)
    with pytest.raises(FactorsError, match=f"Expected a preset out of .*{PRESET}.*, found 'nothing'"):
        chosen("--preset", "nothing").for_config(CONFIG)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--factors", "file", "--tiers", "8k:yarn"), "--factors and --tiers"),
        (("--preset", PRESET, "--tiers", "8k:yarn"), "--preset and --tiers"),
        (("--preset", PRESET, "--factors", "file"), "--factors and --preset"),
    ],
)
def test_several_at_once_are_refused(options: tuple[str, ...], named: str) -> None:
    with pytest.raises(FactorsError, match=f"Expected one of --factors, --preset and --tiers, found {named}"):
        chosen(*options)


def test_what_was_chosen_can_be_said_again() -> None:
    for options in ((), ("--factors", "file"), ("--preset", PRESET), ("--tiers", "8k:yarn")):
        assert chosen(*options).as_options() == options


@pytest.mark.parametrize("text", ["", "8k", "8k:", ":yarn", "8k:yarn,", "8k yarn"])
def test_another_form_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(FactorsError, match="such as 32k:yarn,128k:yarn"):
        parse_tiers(text)


@pytest.mark.parametrize("text", ["8q:yarn", "0:yarn", "8k:magic", "2k:yarn", "16k:yarn,8k:yarn", "8k:own"])
def test_a_wrong_length_or_method_is_one_sentence(text: str) -> None:
    with pytest.raises(LongRopeError, match="found"):
        chosen("--tiers", text).for_config(CONFIG)


def test_methods_over_applied_tiers_are_refused_with_the_way_back() -> None:
    three = Factors.from_baselines([(8192, "yarn"), (16384, "yarn")], Geometry.from_config(CONFIG))
    applied = {**CONFIG, **portable_fields(CONFIG, three)}
    assert TIERS_KEY in applied
    with pytest.raises(FactorsError, match="longrope apply --undo"):
        chosen("--tiers", "8k:yarn").for_config(applied)
