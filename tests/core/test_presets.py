"""The shipped factors are what their own record says they are."""

from pathlib import Path

import pytest

from longrope_vllm import Factors, Geometry
from longrope_vllm.errors import FactorsError
from longrope_vllm.presets import load_preset, preset_names, preset_path

SMOLLM2 = Geometry(
    head_size=64, rotary_dim=64, base=100_000.0, trained_window=8_192, max_positions=8_192, rope_type="default"
)
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_says_where_it_comes_from(name: str) -> None:
    preset = load_preset(name)
    assert preset.max_length > preset.trained_window
    origin = preset.origin
    assert all((origin.method, origin.model, origin.command, origin.measurements))


def test_the_smollm2_preset_is_the_best_measured_baseline_and_no_other() -> None:
    preset = load_preset("smollm2-135m-instruct")
    preset.check_fits(SMOLLM2)
    scores = preset.origin.measurements["perplexity_last_1024_of_16384"]
    assert set(scores) == {"pi", "ntk", "yarn"}
    best = min(scores, key=scores.__getitem__)
    assert preset.origin.method == best
    assert preset.tiers == Factors.from_baseline(best, SMOLLM2, 16_384).tiers


def test_the_numbers_of_the_preset_stand_in_its_results_page() -> None:
    measurements = load_preset("smollm2-135m-instruct").origin.measurements
    page = (RESULTS / measurements["page"]).read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in page.splitlines() if line[:2] == "| "}
    for method, score in measurements["perplexity_last_1024_of_16384"].items():
        assert float(rows[method]) == score


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FactorsError, match="smollm2-135m-instruct, found 'nothing'"):
        preset_path("nothing")
