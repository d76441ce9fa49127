"""The figures of a search: what it had reached for what it had spent, and its factors against the closed forms."""

import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from longrope_search.report.closed_forms import STYLES, factors_by_pair
from longrope_search.report.course import Course, Reached, best_so_far, course, moving_mean
from longrope_search.report.course_figure import draw_course, limits
from longrope_search.scoring.bench import Moment
from longrope_vllm.factor_plot import draw_png
from made_search import WINDOW, found_candidate, made_found, made_plan


def moments(*losses: float, complete: bool = True) -> list[Moment]:
    """Scores that cost 10 tokens each."""
    return [Moment(token_forwards=10 * (n + 1), loss=loss, complete=complete) for n, loss in enumerate(losses)]


def test_the_best_so_far_never_rises() -> None:
    found = best_so_far(moments(2.0, 3.0, 1.5, 1.5, 1.0))
    assert [(one.token_forwards, round(math.log(one.perplexity), 9)) for one in found] == [
        (10, 2.0),
        (30, 1.5),
        (50, 1.0),
    ]
    assert best_so_far(moments(2.0, 1.0, complete=False)) == ()


def test_steps_of_gradient_descent_are_averaged_over_all_passages() -> None:
    steps = moments(1.0, 2.0, 6.0, 1.0, 2.0, complete=False)
    found = moving_mean([*moments(9.0), *steps], run=3)
    assert [one.token_forwards for one in found] == [30, 40, 50]
    assert [math.log(one.perplexity) for one in found] == pytest.approx([3.0, 3.0, 3.0])
    assert moving_mean(steps, run=6) == ()


def test_gradient_descent_has_its_steps_in_the_course(tmp_path: Path) -> None:
    plan = made_plan(tmp_path, method="gradient")
    found = made_found(plan.stages[0])
    drawn = course(found, plan.stages[0])
    assert drawn is not None
    assert len(drawn.steps) == 40 - 5 + 1
    assert draw_course(drawn, subtitle="").startswith(b"\x89PNG")


def test_closed_forms_are_in_the_course_with_the_losses_they_began_with(tmp_path: Path) -> None:
    stage = made_plan(tmp_path).stages[0]
    found = made_found(stage)
    drawn = course(found, stage)
    assert drawn is not None
    assert {name: math.log(value) for name, value in drawn.closed_forms.items()} == pytest.approx(
        {"pi": 3.06, "ntk": 2.43, "yarn": 2.32}
    )
    pruned = replace(found, search_losses={found_candidate(stage): 2.26})
    assert course(pruned, stage) == replace(drawn, closed_forms={})


@pytest.mark.parametrize(
    ("closed_forms", "top"),
    [
        ({"pi": 500.0, "yarn": 10.5}, 11.5),  # three times the gain
        ({"yarn": 10.0}, 10.2),  # no gain: two percent
        ({"pi": 500.0}, 15.0),  # half as much again
        ({}, 12.0),  # where it began
    ],
)
def test_the_axis_of_the_course_is_as_high_as_the_gain_needs(closed_forms: dict[str, float], top: float) -> None:
    best = (Reached(token_forwards=10, perplexity=12.0), Reached(token_forwards=20, perplexity=10.0))
    found = limits(Course(best=best, steps=(), closed_forms=closed_forms, token_forwards=30))
    margin = 0.06 * (top - 10.0)
    assert found == pytest.approx((10.0 - margin, top + margin))


def test_factors_are_drawn_against_closed_forms_over_what_the_model_knows(tmp_path: Path) -> None:
    stage = made_plan(tmp_path).stages[0]
    known = replace(stage.space.footing, max_length=4 * WINDOW, factors=(2.0,) * 32)
    stage = replace(stage, space=replace(stage.space, footing=known))
    plot = factors_by_pair(found_candidate(stage), stage, subtitle="")
    drawn = {curve.label: curve.factors for curve in plot.curves}
    assert set(drawn) == {"pi", "ntk", "yarn", "searched"}
    assert drawn["pi"] == (4.0,) * 32  # twice what it was fine-tuned with
    pixels = imread(BytesIO(draw_png(plot)))[..., :3].reshape(-1, 3)
    assert all((abs(pixels - to_rgb(STYLES[label].color)).max(axis=1) < 0.01).any() for label in drawn)
    assert plot.trained_window == 4 * WINDOW
    assert plot.critical is not None
    assert plot.periods[plot.critical - 1] < 4 * WINDOW <= plot.periods[plot.critical]
