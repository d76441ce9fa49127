"""The limits of a key: buckets, debts, slots. The clock is ours."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.doors.account import Account, Accounts, LongRequests, Ticket
from longrope_vllm.server.doors.bucket import Bucket
from longrope_vllm.server.doors.keys_file import Key, Limits
from longrope_vllm.server.doors.queue_estimate import UNKNOWN, QueueEstimate

LONG = LongRequests(threshold=100, wait=lambda: 7.5)


class Clock:
    """Tells the time it is set to, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def account_with(clock: Clock, **limits: int) -> Account:
    account = Account(clock=clock)
    account.limits = Limits(**limits)
    return account


RATES = st.integers(1, 10_000)
COMINGS = st.lists(st.tuples(st.floats(0, 90), st.integers(1, 20_000)), min_size=1, max_size=40)


@settings(max_examples=300, deadline=None)
@given(RATES, COMINGS)
def test_never_more_is_admitted_than_flows_in_and_one_burst(rate: int, comings: list[tuple[float, int]]) -> None:
    clock, begun = Clock(), 1_000.0
    bucket, admitted = Bucket(clock=clock), 0
    burst = max(rate, *(cost for _, cost in comings))
    for pause, cost in comings:
        clock.now += pause
        if not bucket.wait(cost, per_minute=rate):
            bucket.charge(cost, per_minute=rate)
            admitted += cost
        assert admitted <= rate * (clock.now - begun) / 60 + burst + 0.01
        assert 0 <= bucket.remaining(per_minute=rate) <= rate


@settings(max_examples=300, deadline=None)
@given(RATES, COMINGS, st.integers(1, 50_000))
def test_whoever_comes_back_when_told_is_admitted(rate: int, comings: list[tuple[float, int]], cost: int) -> None:
    clock = Clock()
    bucket = Bucket(clock=clock)
    for pause, spent in comings:
        clock.now += pause
        bucket.charge(spent, per_minute=rate)
    wait = bucket.wait(cost, per_minute=rate)
    if wait:
        clock.now += wait * 0.99 - 1e-3  # not long before
        assert bucket.wait(cost, per_minute=rate)
        clock.now += wait * 0.01 + 1e-3
    assert not bucket.wait(cost, per_minute=rate)


def test_what_is_larger_than_the_bucket_waits_for_it_to_be_full_and_is_paid_back() -> None:
    clock = Clock()
    bucket = Bucket(clock=clock)
    bucket.charge(30, per_minute=60)
    assert bucket.wait(600, per_minute=60) == 30
    clock.now += 30
    assert bucket.wait(600, per_minute=60) == 0
    bucket.charge(600, per_minute=60)
    assert bucket.wait(1, per_minute=60) == 541  # ten minutes' worth, a full minute of it in hand
    assert bucket.remaining(per_minute=60) == 0


def test_too_many_requests_are_told_when_to_come_back() -> None:
    clock = Clock()
    account = account_with(clock, requests_per_minute=2)
    account.take_request()
    account.take_request()
    with pytest.raises(ApiError) as caught:
        account.take_request()
    assert (caught.value.status, caught.value.body["code"]) == (429, "rate_limit_exceeded")
    assert caught.value.headers == {"retry-after": "30"}
    clock.now += 30
    account.take_request()


def test_output_is_charged_and_a_debt_is_refused_at_the_door() -> None:
    clock = Clock()
    account = account_with(clock, tokens_per_minute=100)
    ticket = Ticket(account, LONG)
    ticket.admit_whole([60])
    ticket.settle(140)
    with pytest.raises(ApiError) as caught:
        account.take_request()
    assert caught.value.headers is not None
    wait = int(caught.value.headers["retry-after"])
    assert wait == math.ceil((60 + 140 - 100 + 1) * 0.6)
    clock.now += wait
    account.take_request()


def test_a_longer_prompt_than_allowed_is_refused_with_the_numbers_and_costs_nothing() -> None:
    account = account_with(Clock(), tokens_per_minute=1000, longest_prompt=200)
    with pytest.raises(ApiError) as caught:
        Ticket(account, LONG).admit_whole([10, 201])
    assert caught.value.status == 400
    assert (caught.value.body["prompt_tokens"], caught.value.body["limit"]) == (201, 200)
    assert dict(account.headers())["x-ratelimit-remaining-tokens"] == "1000"


def test_long_requests_side_by_side_are_limited_and_short_ones_are_not() -> None:
    account = account_with(Clock(), concurrent_long=1)
    first, second = Ticket(account, LONG), Ticket(account, LONG)
    first.admit_whole([101])
    with pytest.raises(ApiError) as caught:
        second.admit_whole([101])
    assert (caught.value.status, caught.value.headers) == (429, {"retry-after": "8"})
    second.admit_whole([100])
    first.settle(0)
    second.admit_whole([101])


def test_what_was_let_in_as_a_whole_enters_the_engine_freely() -> None:
    account = account_with(Clock(), tokens_per_minute=100)
    ticket = Ticket(account, LONG)
    ticket.admit_whole([50])
    for _ in range(5):  # choices, beams
        ticket.enter(50)
    assert dict(account.headers())["x-ratelimit-remaining-tokens"] == "50"
    Ticket(account, LONG).enter(50)
    assert dict(account.headers())["x-ratelimit-remaining-tokens"] == "0"


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["whole", "enter", "settle", "wait"]), st.integers(0, 5), st.integers(0, 400)),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(ACTIONS, st.integers(1, 3))
def test_slots_are_never_more_than_allowed_and_always_come_back(
    actions: list[tuple[str, int, int]], limit: int
) -> None:
    clock = Clock()
    account = account_with(clock, concurrent_long=limit, tokens_per_minute=2_000, longest_prompt=350)
    tickets = [Ticket(account, LONG) for _ in range(6)]
    for action, who, tokens in actions:
        before = account.running_long
        try:
            if action == "whole":
                tickets[who].admit_whole([tokens, 1])
            elif action == "enter":
                tickets[who].enter(tokens)
            elif action == "settle":
                tickets[who].settle(tokens)
            else:
                clock.now += tokens
        except ApiError:
            assert account.running_long == before
        assert 0 <= account.running_long <= limit
    for ticket in tickets:
        ticket.settle(0)
    assert account.running_long == 0


def test_an_owner_keeps_its_account_when_its_limits_change() -> None:
    clock = Clock()
    accounts = Accounts(clock=clock)
    key = Key(owner="key:a", hashes=("x",), limits=Limits(requests_per_minute=1))
    accounts.of(key).take_request()
    with pytest.raises(ApiError):
        accounts.of(Key(owner="key:a", hashes=("y",), limits=Limits(requests_per_minute=1))).take_request()
    accounts.of(Key(owner="key:b", hashes=("z",), limits=key.limits)).take_request()


class Processor:
    """vLLM's output processor, as far as the queue is concerned."""

    def get_num_queued_tokens(self) -> int:
        return 5_000


class Engine:
    output_processor = Processor()


def test_the_queue_is_estimated_from_its_tokens_and_the_pace_of_prefills() -> None:
    from longrope_vllm.plugin.followed import EngineRequest

    queue = QueueEstimate(Engine())
    assert queue.seconds() == UNKNOWN
    told = {"name": "a", "output_tokens": 1}
    queue.observe([EngineRequest(prompt_tokens=1_000, cached_tokens=500, prefill_seconds=1.0, **told)])
    queue.observe([EngineRequest(prompt_tokens=900, cached_tokens=900, prefill_seconds=0.1, **told)])
    queue.observe([EngineRequest(prompt_tokens=900, cached_tokens=0, prefill_seconds=None, **told)])
    assert queue.seconds() == 10.0
    assert QueueEstimate(None).queued_tokens() == 0
