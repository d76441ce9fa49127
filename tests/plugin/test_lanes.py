"""The two lanes as they are promised: nobody starves, nothing idles, a step takes the time it is meant to take.

Oracle: the bounds stated in ``longrope_vllm.plugin.lanes``, held against every stretch of simulated schedules.
"""

from collections import deque
from dataclasses import dataclass
from itertools import accumulate, groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope_vllm.plugin.lanes import (
    BURST,
    CHUNK_UNIT,
    LEAST_CHUNK,
    MOST_PASSES,
    PATIENCE,
    SHARE,
    Chunk,
    Lane,
    Turns,
)

LONGEST_SHORT_STEP, LONGEST_LONG_STEP = 3.0, 0.4
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is in the lanes when a step is decided, and what a step of either lane would take, in seconds."""

    short: bool
    long: bool
    short_seconds: float
    long_seconds: float


def moments(*, busy: bool) -> st.SearchStrategy[list[Moment]]:
    """Schedules; with ``busy`` both lanes have something all the time."""
    either = st.just((True, True)) if busy else st.sampled_from([(True, True), (True, False), (False, True)])
    short = st.floats(0.001, LONGEST_SHORT_STEP)
    long = st.floats(0.001, LONGEST_LONG_STEP)
    moment = st.builds(
        lambda lanes, a, b: Moment(short=lanes[0], long=lanes[1], short_seconds=a, long_seconds=b), either, short, long
    )
    return st.lists(moment, min_size=1, max_size=60)


def served(turns: Turns, schedule: list[Moment], in_flight: int) -> list[tuple[Lane, float]]:
    """The steps in order: each is decided when ``in_flight - 1`` others before it are still under way."""
    done: list[tuple[Lane, float]] = []
    under_way: deque[tuple[Lane, float, bool]] = deque()
    for moment in schedule:
        lane = turns.next(short=moment.short, long=moment.long)
        turns.tried(lane, 0.0, used=True)
        seconds = moment.short_seconds if lane == "short" else moment.long_seconds
        under_way.append((lane, seconds, moment.short and moment.long))
        if len(under_way) == in_flight:
            end(turns, under_way, done)
    while under_way:
        end(turns, under_way, done)
    return done


def end(turns: Turns, under_way: deque[tuple[Lane, float, bool]], done: list[tuple[Lane, float]]) -> None:
    lane, seconds, contested = under_way.popleft()
    turns.served(lane, seconds, contested=contested)
    done.append((lane, seconds))


steps_under_way = pytest.mark.parametrize("in_flight", [1, 2, 4])


@steps_under_way
@given(before=moments(busy=False), busy=moments(busy=True))
def test_neither_lane_waits_longer_than_is_promised_whatever_went_before(
    before: list[Moment], busy: list[Moment], in_flight: int
) -> None:
    turns = Turns()
    served(turns, before, in_flight)
    longest = {
        "short": BURST + in_flight * LONGEST_SHORT_STEP,
        "long": in_flight * LONGEST_SHORT_STEP * SHARE / (1 - SHARE) + in_flight * LONGEST_LONG_STEP,
    }
    for lane, steps in groupby(served(turns, busy, in_flight), key=lambda step: step[0]):
        assert sum(seconds for _, seconds in steps) <= longest[lane] + ROUNDING


@steps_under_way
@given(before=moments(busy=False), busy=moments(busy=True))
def test_the_long_lane_gets_its_share_of_any_stretch_of_time(
    before: list[Moment], busy: list[Moment], in_flight: int
) -> None:
    turns = Turns()
    served(turns, before, in_flight)
    steps = served(turns, busy, in_flight)
    at = [0.0, *accumulate(seconds for _, seconds in steps)]
    of_long = [0.0, *accumulate(seconds if lane == "long" else 0.0 for lane, seconds in steps)]
    for begin in range(len(steps)):
        for stop in range(begin + 1, len(steps) + 1):
            promised = SHARE * (at[stop] - at[begin] - BURST - in_flight * LONGEST_SHORT_STEP)
            assert of_long[stop] - of_long[begin] >= promised - ROUNDING


@given(before=moments(busy=False))
def test_a_short_request_that_comes_to_a_rested_server_is_next(before: list[Moment]) -> None:
    turns = Turns()
    served(turns, before, 1)
    for _ in range(200):  # long steps alone: nothing is owed after them
        turns.served("long", LONGEST_LONG_STEP, contested=False)
    assert turns.next(short=True, long=True) == "short"


@pytest.mark.parametrize("blocked", ["short", "long"])
@given(schedule=moments(busy=True))
def test_a_lane_that_can_do_nothing_costs_one_turn_in_nine(blocked: Lane, schedule: list[Moment]) -> None:
    turns, lost = Turns(), 0
    for moment in schedule:
        lane = turns.next(short=True, long=True)
        turns.tried(lane, 0.0, used=lane != blocked)
        turns.served(lane, moment.short_seconds, contested=True)
        lost += lane == blocked
    assert lost <= 4 + len(schedule) / (MOST_PASSES + 1)


@pytest.mark.parametrize("lost", range(0, 100, 7))
def test_a_lane_that_can_go_on_again_is_tried_within_nine_turns(lost: int) -> None:
    turns = Turns()
    for _ in range(lost):
        lane = turns.next(short=True, long=True)
        turns.tried(lane, 0.0, used=lane == "long")
        turns.served(lane, 0.1, contested=True)
    assert "short" in [turns.next(short=True, long=True) for _ in range(MOST_PASSES + 1)]


def test_a_lane_is_tried_at_once_when_somebody_comes_or_leaves() -> None:
    turns = Turns()
    for _ in range(10):
        turns.tried("short", 0.0, used=False)
    assert turns.next(short=True, long=True) == "long"
    turns.changed()
    assert turns.next(short=True, long=True) == "short"


@given(blocked=moments(busy=True), busy=moments(busy=True))
def test_time_in_which_the_long_lane_could_do_nothing_is_not_made_up_for(
    blocked: list[Moment], busy: list[Moment]
) -> None:
    turns = Turns()
    turns.tried("long", 0.0, used=False)
    for moment in blocked:
        turns.served("short", moment.short_seconds, contested=True)
    turns.tried("long", 0.0, used=True)
    owed = LONGEST_SHORT_STEP * SHARE / (1 - SHARE) + LONGEST_LONG_STEP
    for lane, steps in groupby(served(turns, busy, 1), key=lambda step: step[0]):
        assert lane == "short" or sum(seconds for _, seconds in steps) <= owed + ROUNDING


def test_an_empty_lane_never_holds_up_the_other() -> None:
    turns = Turns()
    for _ in range(10):
        turns.tried("long", 0.0, used=False)
        assert turns.next(short=False, long=True) == "long"
        assert turns.next(short=True, long=False) == "short"


def test_a_long_request_without_memory_shuts_the_short_lane_after_its_patience_until_it_is_in() -> None:
    turns = Turns()
    turns.tried("long", 5.0, used=False)
    turns.tried("long", 20.0, used=False)
    assert not turns.shut(5.0 + PATIENCE - 1)
    assert turns.shut(5.0 + PATIENCE)
    turns.tried("short", 5.0 + PATIENCE, used=True)
    assert turns.shut(5.0 + PATIENCE)
    turns.tried("long", 6.0 + PATIENCE, used=True)
    assert not turns.shut(1_000.0)


@given(
    wait=st.floats(0.01, 1.0),
    overhead=st.floats(0.0, 0.004),
    token=st.floats(1e-6, 1e-3),
    twice_as_dear_at=st.floats(1e3, 1e6),
)
def test_a_step_of_a_long_prompt_never_takes_twice_the_time_it_is_meant_to(
    wait: float, overhead: float, token: float, twice_as_dear_at: float
) -> None:
    chunk, depth = Chunk(wait), 0
    for number in range(200):
        tokens = chunk.tokens("long")
        assert tokens >= LEAST_CHUNK
        assert tokens % CHUNK_UNIT == 0
        seconds = overhead + tokens * token * (1 + (depth + tokens / 2) / twice_as_dear_at)
        if number and tokens > LEAST_CHUNK:  # the first one is a guess
            assert seconds <= wait * 2
        chunk.measured("long", tokens, seconds)
        depth += tokens
        assert chunk.tokens("long") <= 2 * tokens


def test_a_chunk_fills_its_time_and_another_request_begins_small_again() -> None:
    chunk = Chunk(0.1)
    for _ in range(10):
        chunk.measured("one", chunk.tokens("one"), chunk.tokens("one") * 1e-5)
    assert 0.1 - CHUNK_UNIT * 1e-5 <= chunk.tokens("one") * 1e-5 <= 0.1
    assert chunk.tokens("two") == LEAST_CHUNK
    chunk.measured("one", 64, 0.1)  # a step that was under way when the second one began
    assert chunk.tokens("two") == LEAST_CHUNK
