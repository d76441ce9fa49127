"""Oracle: the formulas of PI, NTK-aware and YaRN written out here, pair by pair."""

import math
from dataclasses import replace

import numpy as np
import pytest

from longrope_search.methods.seeds import from_shorter, from_tuned, seeds
from longrope_search.space import Point, Vector
from longrope_vllm import Geometry, Tier
from toy_search import LLAMA3, PHI3, SMOLLM, geometry, space_of

HALF_A_STEP = 5.1e-5
GEOMETRIES = [SMOLLM, LLAMA3, PHI3, geometry(128, 1e4, 4096, rotary_dim=96), geometry(256, 1e6, 32_768)]


def interpolated(rope: Geometry) -> Vector:
    """How much of each pair YaRN slows: 0 up to 32 turns in the window, 1 from one turn on (section 3.2)."""

    def pair(turns: int) -> float:
        return rope.pairs * math.log(rope.trained_window / (turns * 2 * math.pi), rope.base)

    low, high = max(math.floor(pair(32)), 0), min(math.ceil(pair(1)), rope.rotary_dim - 1)
    return np.array([min(max((at - low) / (high - low), 0.0), 1.0) for at in range(rope.pairs)])


def yarn(rope: Geometry, scale: float) -> Vector:
    """Frequencies are mixed: ``f' = (1 - g) f + g f / s``."""
    frequencies = np.array([rope.base ** (-2 * at / rope.rotary_dim) for at in range(rope.pairs)])
    mixed = (1 - interpolated(rope)) * frequencies + interpolated(rope) * frequencies / scale
    return frequencies / mixed


def yarn_of_the_public_code(rope: Geometry, scale: float) -> Vector:
    """Its fault: factors are mixed, ``lambda = (1 - g) + g s``."""
    return (1 - interpolated(rope)) + interpolated(rope) * scale


@pytest.mark.parametrize("rope", GEOMETRIES)
@pytest.mark.parametrize("scale", [2.0, 4.0, 32.0])
def test_a_search_begins_with_pi_ntk_and_yarn(rope: Geometry, scale: float) -> None:
    found = seeds(space_of(rope=rope, scale=scale), rope)
    assert [point.origin for point in found] == ["pi", "ntk", "yarn"]
    pi, ntk, mixed = (point.factors for point in found)
    np.testing.assert_array_equal(pi, np.full(rope.pairs, scale))
    expected = [scale ** (2 * at / (rope.rotary_dim - 2)) for at in range(rope.pairs)]
    np.testing.assert_allclose(ntk, expected, rtol=0, atol=HALF_A_STEP)
    np.testing.assert_allclose(mixed, yarn(rope, scale), rtol=0, atol=HALF_A_STEP)


def test_the_yarn_seed_mixes_frequencies_and_not_factors_as_the_public_code_does() -> None:
    found = seeds(space_of(scale=4.0), SMOLLM)[2].factors
    right, wrong = yarn(SMOLLM, 4.0), yarn_of_the_public_code(SMOLLM, 4.0)
    between = (interpolated(SMOLLM) > 0) & (interpolated(SMOLLM) < 1)
    assert between.sum() > 5
    assert np.all(wrong[between] > right[between])  # the arithmetic mean is above the harmonic one
    assert np.abs(wrong - right).max() > 0.5
    np.testing.assert_allclose(found, right, rtol=0, atol=HALF_A_STEP)


def test_every_seed_has_the_attention_factor_of_the_search() -> None:
    for name in ("longrope", "longrope2"):
        found = seeds(space_of(name, attention_factor=1.143544), SMOLLM)
        assert {point.attention_factor for point in found} == {1.143544}


def test_at_scale_one_the_closed_forms_are_one_seed_of_ones() -> None:
    (found,) = seeds(space_of(scale=1.0), SMOLLM)
    np.testing.assert_array_equal(found.factors, np.ones(32))


def test_longrope2_begins_with_each_critical_pair_and_the_scale_from_there_on() -> None:
    found = seeds(space_of("longrope2", scale=4.0), SMOLLM)
    assert [point.pivot for point in found] == [14, 15, 16, 17, 18, 19, 20]
    for point in found:
        np.testing.assert_array_equal(point.factors[point.pivot :], np.full(32 - point.pivot, 4.0))
        below = [4.0 ** (at / point.pivot) for at in range(point.pivot)]
        np.testing.assert_allclose(point.factors[: point.pivot], below, rtol=1e-12)


def test_over_a_footing_the_closed_forms_are_those_of_its_length() -> None:
    tuned = Tier(max_length=32_768, factors=tuple(np.geomspace(1.0, 4.0, 32).tolist()))
    space = space_of(footing=tuned, scale=2.0)
    pi, ntk, mixed = (point.factors for point in seeds(space, SMOLLM))
    assert set(pi) == {2.0}
    np.testing.assert_allclose(ntk, [2 ** (2 * at / 62) for at in range(32)], rtol=0, atol=HALF_A_STEP)
    known = replace(SMOLLM, trained_window=32_768)
    np.testing.assert_allclose(mixed, yarn(known, 2.0), rtol=0, atol=HALF_A_STEP)


def test_a_shorter_length_gives_its_factors_stretched_to_the_same_part_of_the_scale() -> None:
    shorter, longer = space_of(scale=4.0), space_of(scale=16.0, attention_factor=1.3)
    found = from_shorter(Point(factors=np.geomspace(1.0, 4.0, 32), attention_factor=1.2), longer, shorter)
    np.testing.assert_allclose(found.factors, np.geomspace(1.0, 16.0, 32), rtol=0, atol=HALF_A_STEP)
    assert found.attention_factor == 1.3


def test_a_stretched_closed_form_is_that_closed_form_at_the_longer_scale() -> None:
    shorter, longer = space_of(scale=4.0), space_of(scale=32.0)
    for point, expected in list(zip(seeds(shorter, SMOLLM), seeds(longer, SMOLLM), strict=True))[:2]:  # PI and NTK
        found = from_shorter(point, longer, shorter).factors
        np.testing.assert_allclose(found, expected.factors, rtol=3e-4)  # the shorter one was on the grid before


def test_what_was_found_within_the_window_begins_a_longer_search_with_the_numbers_of_that_one() -> None:
    """Short lengths of a tuned model: one below its pretrained window, the next above it."""
    shorter, longer = space_of(scale=1.0, attention_factor=1.0), space_of(scale=2.0, attention_factor=1.04, step=0.01)
    found = from_shorter(Point(factors=np.linspace(1.0, 1.2049, 32)), longer, shorter)
    assert found.attention_factor == 1.04
    np.testing.assert_allclose(found.factors, np.linspace(1.0, 1.2049, 32).round(2), rtol=1e-12)


def test_tuned_factors_shrink_in_the_logarithm_until_the_largest_fits() -> None:
    tuned = np.geomspace(1.0, 32.0, 32)
    tier = Tier(max_length=262_144, factors=tuple(tuned.tolist()), attention_factor=1.2)
    space = space_of(scale=1.0, attention_factor=1.0)
    found = from_tuned(tier, space)
    np.testing.assert_allclose(found.factors, tuned ** (math.log(1.25) / math.log(32)), rtol=0, atol=HALF_A_STEP)
    assert found.factors.max() == 1.25
    assert found.attention_factor == 1.2  # the model was tuned with it


def test_tuned_factors_that_fit_are_taken_as_they_are() -> None:
    tuned = np.linspace(1.0, 1.2, 32).round(4)
    tier = Tier(max_length=16_384, factors=tuple(tuned.tolist()))
    np.testing.assert_allclose(from_tuned(tier, space_of(scale=1.0)).factors, tuned, rtol=1e-12)
    ones = Tier(max_length=16_384, factors=(1.0,) * 32)
    np.testing.assert_array_equal(from_tuned(ones, space_of(scale=1.0)).factors, np.ones(32))
