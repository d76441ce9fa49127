"""The shipped factors are what their own record says they are, and that says they are worth shipping."""

from collections.abc import Mapping
from typing import Any

import pytest

from longrope_vllm import Geometry
from longrope_vllm.errors import FactorsError
from longrope_vllm.presets import load_preset, preset_names, preset_path

SMOLLM2 = Geometry(
    head_size=64, rotary_dim=64, base=100_000.0, trained_window=8_192, max_positions=8_192, rope_type="default"
)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_says_where_it_comes_from(name: str) -> None:
    origin = load_preset(name).origin
    assert origin.method == "search"
    assert all((origin.model, origin.revision, origin.command))
    assert {"versions", "seed", "objective", "space"} <= origin.measurements.keys()


@pytest.mark.parametrize("name", preset_names())
def test_every_tier_of_a_preset_past_the_window_was_better_than_every_closed_form(name: str) -> None:
    preset = load_preset(name)
    own, *longer = preset.tiers
    assert own.max_length >= preset.trained_window
    measured = held_out(preset.origin.measurements)
    assert sorted(measured) == [tier.max_length for tier in longer]
    for length, losses in measured.items():
        searched = losses.pop("searched")
        assert {"none", "pi", "ntk", "yarn"} <= losses.keys()
        assert searched < min(losses.values()), length


def held_out(stated: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Length to losses on held-out documents, those that the search began with included."""
    found = {int(length): dict(each["held_out_loss"]) for length, each in stated["lengths"].items()}
    return (held_out(stated["before"]) if "before" in stated else {}) | found


def test_the_smollm2_preset_fits_smollm2() -> None:
    load_preset("smollm2-135m").check_fits(SMOLLM2)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FactorsError, match="smollm2-135m, found 'nothing'"):
        preset_path("nothing")
