"""How fast a prefill goes, when it will end, and how long silence is borne: arithmetic."""

import pytest

from longrope_vllm.client.events import Progress
from longrope_vllm.client.pace import Pace
from longrope_vllm.client.patience import Patience, tokens_at_most


def told(*news: tuple[int, float], total: int = 10_000) -> Pace:
    pace = Pace()
    for processed, seconds in news:
        pace.add(Progress(total=total, cache=0, processed=processed, seconds=seconds))
    return pace


def test_nothing_is_said_before_there_are_two_moments() -> None:
    assert told().rate is None
    assert told((500, 1.0)).left is None
    assert told((500, 1.0), (500, 2.0)).left is None


def test_what_is_left_goes_at_the_pace_so_far() -> None:
    pace = told((0, 0.0), (2_000, 4.0))
    assert (pace.rate, pace.left) == (500.0, 16.0)


def test_cached_tokens_do_not_count_as_fast_ones() -> None:
    pace = told((6_000, 0.5), (7_000, 2.5))
    assert (pace.rate, pace.left) == (500.0, 6.0)


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    fast = [(1_000 * second, float(second)) for second in range(5)]
    slow = [(4_000 + 10 * second, 4.0 + second) for second in range(1, 60)]
    assert told(*fast, *slow).rate == pytest.approx(10.0)


def test_after_a_step_back_the_past_does_not_count() -> None:
    assert told((0, 0.0), (4_000, 1.0), (1_000, 2.0), (1_500, 3.0)).rate == 500.0


@pytest.mark.parametrize(
    ("given", "tokens", "alive", "seconds"),
    [(None, 1_000_000, True, 120.0), (None, 1_000_000, False, 20_120.0), (5.0, 1_000_000, False, 5.0)],
)
def test_silence_is_borne_by_the_length_unless_the_server_is_never_silent(
    given: float | None, tokens: int, alive: bool, seconds: float
) -> None:
    assert Patience(given=given).for_answer(tokens, alive=alive) == seconds


def test_an_upload_is_answered_after_time_for_its_bytes() -> None:
    assert Patience().for_upload(27_000_000) == 390.0
    assert Patience(given=1.0).for_upload(27_000_000) == 1.0


def test_tokens_are_rather_too_many_than_too_few() -> None:
    assert [tokens_at_most(size) for size in (0, 1, 2, 3)] == [0, 1, 1, 2]
