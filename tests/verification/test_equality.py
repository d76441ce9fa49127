"""When answers count as equal: worked examples by hand."""

from math import inf

import pytest
import torch

from longrope_vllm.verification.answers import Step
from longrope_vllm.verification.equality import (
    ANSWER_POSITIONS,
    CHECK_POSITIONS,
    LARGEST_FLOOR,
    MEAN_FLOOR,
    NOISE_FACTOR,
    NOISE_LIMIT,
    Comparison,
    Tolerance,
    compare,
    logit_step,
)
from longrope_vllm.verification.findings import Pair, judged

WIDE = Tolerance(largest=0.5, answer_mean=0.2, check_mean=0.1)
NARROW = Tolerance.from_noise([], step=0.0)


def step(token: int, **top: float) -> Step:
    """``a`` to ``z`` are the tokens 0 to 25."""
    return Step(token=token, top={ord(name) - ord("a"): value for name, value in top.items()})


def alike(positions: int, difference: float) -> Comparison:
    return Comparison(differences=(difference,) * positions, positions=positions)


def test_an_answer_equals_itself() -> None:
    answer = [step(0, a=-0.1, b=-2.0), step(1, a=-3.0, b=-0.2)]
    found = compare(answer, answer)
    assert (found.differences, found.positions, found.tie_gap) == ((0.0,) * 4, 2, None)
    assert NARROW.accepts(found)


def test_the_shorter_answer_decides_how_much_is_compared() -> None:
    answer = [step(0, a=-0.1)] * 5
    assert compare(answer, answer[:2]).positions == 2


def test_nothing_compared_is_not_equal() -> None:
    found = compare([], [])
    assert found.largest == inf
    assert not WIDE.accepts(found)


def test_tokens_that_part_at_a_near_tie_are_equal_and_what_follows_is_not_compared() -> None:
    ours = [step(0, a=-0.70, b=-0.72), step(0, a=-0.1, b=-9.0)]
    theirs = [step(1, a=-0.73, b=-0.71), step(1, a=-9.0, b=-0.1)]
    found = compare(ours, theirs)
    assert found.positions == 1
    assert found.tie_gap == pytest.approx(0.02)
    assert WIDE.accepts(found)
    assert not NARROW.accepts(found)


def test_tokens_that_part_where_one_side_is_sure_are_different() -> None:
    found = compare([step(0, a=-0.70, b=-0.72)], [step(1, a=-1.1, b=-0.4)])
    assert found.tie_gap == pytest.approx(0.7)
    assert found.largest < WIDE.largest  # every single value alone would pass
    assert not WIDE.accepts(found)


def test_a_token_that_the_other_side_does_not_even_list_is_no_near_tie() -> None:
    assert compare([step(0, a=-0.7, b=-0.7)], [step(2, c=-0.7, b=-0.7)]).tie_gap == inf


def test_a_token_listed_by_one_side_only_differs_at_least_by_its_distance_to_the_lowest_of_the_other() -> None:
    found = compare([step(0, a=-0.1, b=-1.0)], [step(0, a=-0.1, c=-3.0)])
    assert found.differences == pytest.approx((0.0, 2.0, 0.0))


def test_a_float32_server_without_noise_gets_the_floors() -> None:
    assert Tolerance(largest=LARGEST_FLOOR, answer_mean=MEAN_FLOOR, check_mean=MEAN_FLOOR) == NARROW


def test_a_half_precision_server_gets_a_few_steps_of_its_logits_though_it_shows_no_noise() -> None:
    found = Tolerance.from_noise([[alike(CHECK_POSITIONS, 0.0)]], step=0.125)
    assert (found.largest, found.answer_mean, found.check_mean) == (0.5, 0.125, 0.0625)


def log_probabilities(dtype: torch.dtype, scale: float) -> list[Step]:
    """Random logits around ``scale``, rounded to ``dtype`` as by an engine, then normalised in float32."""
    logits = (scale * (1 + 0.3 * torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)))).to(dtype)
    top = torch.log_softmax(logits.float(), dim=-1).topk(10)
    return [
        Step(token=tokens[0], top=dict(zip(tokens, values, strict=True)))
        for tokens, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("dtype", "scale", "step"),
    [
        (torch.bfloat16, 12.0, 0.125),  # the largest of 1,000 lie above 16: 7 bits after the first, 2**(4 - 7)
        (torch.bfloat16, 3.0, 2.0**-5),
        (torch.float16, 12.0, 2.0**-6),
        (torch.float32, 12.0, 0.0),
        (torch.float32, 0.5, 0.0),
    ],
)
def test_the_step_of_the_logits_shows_in_the_answers(dtype: torch.dtype, scale: float, step: float) -> None:
    assert logit_step(log_probabilities(dtype, scale)) == step


def test_the_tolerance_grows_with_the_noise_of_the_worst_tier() -> None:
    calm, rough = [alike(CHECK_POSITIONS, 0.01)], [alike(CHECK_POSITIONS, 0.1)]
    found = Tolerance.from_noise([calm, rough], step=0.0)
    assert found.largest == pytest.approx(0.3)
    assert found.answer_mean == pytest.approx(0.3)
    assert found.check_mean == pytest.approx(0.2)


def test_parting_tokens_in_the_noise_widen_the_tolerance_up_to_a_limit() -> None:
    parted = Comparison(differences=(0.1,), positions=1, tie_gap=0.2)
    assert Tolerance.from_noise([[parted]], step=0.0).largest == pytest.approx(0.6)
    unlisted = Comparison(differences=(0.1,), positions=1, tie_gap=inf)
    assert Tolerance.from_noise([[unlisted]], step=0.0).largest == NOISE_FACTOR * NOISE_LIMIT


def test_one_value_can_be_too_far() -> None:
    assert WIDE.accepts(Comparison(differences=(0.0, 0.49, 0.0), positions=3))
    assert not WIDE.accepts(Comparison(differences=(0.0, 0.51, 0.0), positions=3))


def test_the_mean_of_an_answer_can_be_too_far_though_each_value_is_near() -> None:
    assert not WIDE.accepts(alike(ANSWER_POSITIONS, 0.3))
    assert WIDE.accepts(alike(ANSWER_POSITIONS - 1, 0.3))  # too few to speak of a mean


def test_the_mean_of_a_check_can_be_too_far_though_each_answer_is_near() -> None:
    answers = [Pair(what="an answer", comparison=alike(ANSWER_POSITIONS, 0.15))] * 4
    assert all(WIDE.accepts(pair.comparison) for pair in answers)
    found = judged("answers", answers, WIDE)
    assert found.status == "failed"
    assert found.reason == "log-probabilities of all answers differ by 0.15 on average (tolerance 0.1)"
    assert judged("answers", answers[:3], WIDE).status == "passed"  # 12 positions


def test_a_failure_names_the_pair_and_its_figures() -> None:
    pairs = [Pair(what=f"request {index}", comparison=alike(1, 0.7)) for index in range(5)]
    found = judged("requests", pairs, WIDE, ["the wrong tier"])
    assert found.status == "failed"
    assert found.reason is not None
    assert found.reason.startswith("the wrong tier; request 0: log-probabilities differ by up to 0.7 (tolerance 0.5)")
    assert found.reason.endswith("; and 3 more")
    assert (found.answers, found.positions, found.largest_difference) == (5, 5, 0.7)
