"""Oracle: the choices as LongRoPE's table 3 prints them."""

import numpy as np
import pytest

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Score
from longrope_search.methods.start_tokens import start_tokens
from longrope_search.space import Point
from toy_search import drive, geometry, plain, space_of

PUBLISHED = [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256]
POINT = Point(factors=np.linspace(1.0, 4.0, 32), attention_factor=1.2)


def alike(candidate: Candidate) -> Score:
    return Score(loss=1.0)


def test_the_published_choices_are_tried_with_nothing_else_changed() -> None:
    space = space_of(start_tokens=5)
    course = drive(start_tokens(space, POINT), alike)
    (batch,) = course.batches
    assert [candidate.start_tokens for candidate in batch.candidates] == PUBLISHED
    assert {(candidate.factors, candidate.attention_factor) for candidate in batch.candidates} == {
        (space.candidate(POINT).factors, 1.2)
    }
    assert batch.passages is None
    assert course.found is POINT


@pytest.mark.parametrize(("target", "last", "count"), [(16, 12, 6), (32, 28, 10), (256, 128, 13), (258, 256, 14)])
def test_only_numbers_below_the_target_are_tried(target: int, last: int, count: int) -> None:
    rope = geometry(64, 1e4, target // 2)
    space = space_of(rope=rope, footing=plain(rope), scale=2.0)
    (batch,) = drive(start_tokens(space, POINT), alike).batches
    tried = [candidate.start_tokens for candidate in batch.candidates]
    assert tried == PUBLISHED[:count]
    assert tried[-1] == last
