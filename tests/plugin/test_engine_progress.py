"""What the engine tells of its requests, read from vLLM's own requests and queues in the states a scheduler leaves.

The oracle is the bookkeeping of vLLM's scheduler: what it has counted as computed, less what is still in flight.
"""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the requests are vLLM's")

from vllm import SamplingParams
from vllm.v1.core.sched.request_queue import SchedulingPolicy, create_request_queue
from vllm.v1.engine import EngineCoreEventType
from vllm.v1.request import Request, RequestStatus

from longrope_vllm.plugin.progress import EngineProgress, progress_of

PROMPT = 400


def request(name: str = "a", **fields: Any) -> Request:
    params = SamplingParams(max_tokens=16)
    made = Request(name, list(range(PROMPT)), sampling_params=params, pooling_params=None, **fields)
    made.record_event(EngineCoreEventType.QUEUED)
    return made


def running(computed: int, *, in_flight: int = 0, cached: int = 0, output: int = 0) -> Request:
    """A request that runs, as it is between two steps."""
    made = request()
    made.status = RequestStatus.RUNNING
    made.record_event(EngineCoreEventType.SCHEDULED)
    assert made.prefill_stats is not None
    made.prefill_stats.set(num_prompt_tokens=PROMPT, num_local_cached_tokens=cached, num_external_cached_tokens=0)
    made.num_computed_tokens, made.num_in_flight_tokens = computed, in_flight
    if output:
        made.append_output_token_ids([7] * output)
        made.take_prefill_stats()
        made.take_events()
    return made


def scheduler(*waiting: Request, runs: tuple[Request, ...] = (), policy: str = "fcfs", **queues: Any) -> Any:
    queue = create_request_queue(SchedulingPolicy(policy))
    for one in waiting:
        queue.add_request(one)
    return SimpleNamespace(requests={one.request_id: one for one in (*waiting, *runs)}, waiting=queue, **queues)


def told(one: Request) -> EngineProgress:
    return progress_of(scheduler(runs=(one,)), [one.request_id])[one.request_id]


def test_a_waiting_request_has_a_place_in_the_queue_and_nothing_else() -> None:
    found = progress_of(scheduler(request("a"), request("b"), request("c")), ["c", "a"])
    assert {name: one.queue_position for name, one in found.items()} == {"c": 2, "a": 0}
    assert found["c"] == EngineProgress(
        state="queued",
        queue_position=2,
        prompt_tokens=PROMPT,
        cached_tokens=0,
        processed_tokens=0,
        output_tokens=0,
        prefill_seconds=None,
    )


def test_a_queue_by_priority_counts_by_priority() -> None:
    last, first = request("last", priority=5), request("first", priority=1)
    found = progress_of(scheduler(last, first, policy="priority"), ["last", "first"])
    assert {name: one.queue_position for name, one in found.items()} == {"last": 1, "first": 0}


@pytest.mark.parametrize("queue", ["kv_holding_waiting", "skipped_waiting"])
def test_a_queue_that_is_drained_first_stands_in_front(queue: str) -> None:
    skipped = request("skipped")
    engine = scheduler(request("a"), **{queue: [skipped]})
    engine.requests["skipped"] = skipped
    found = progress_of(engine, ["a", "skipped"])
    assert {name: one.queue_position for name, one in found.items()} == {"skipped": 0, "a": 1}


def test_ids_the_engine_does_not_know_are_left_out() -> None:
    assert progress_of(scheduler(request("a")), ["a-1", "b"]) == {}


@pytest.mark.parametrize(
    ("computed", "in_flight", "cached", "processed"),
    [
        (128, 128, 0, 0),  # the first chunk is on its way
        (256, 128, 0, 128),
        (256, 128, 128, 128),  # what was found in the cache is there at once
        (384, 256, 0, 128),  # two steps overlap
        (400, 16, 0, 384),  # the last chunk is on its way
    ],
)
def test_a_step_counts_when_its_output_is_there(computed: int, in_flight: int, cached: int, processed: int) -> None:
    found = told(running(computed, in_flight=in_flight, cached=cached))
    assert (found.state, found.queue_position, found.cached_tokens) == ("prefill", None, cached)
    assert found.processed_tokens == processed
    assert found.prefill_seconds is not None
    assert found.prefill_seconds >= 0


@pytest.mark.parametrize(("output", "in_flight"), [(1, 0), (1, 1), (9, 1)])
def test_a_request_generates_from_its_first_token_on(output: int, in_flight: int) -> None:
    found = told(running(PROMPT + output - 1 + in_flight, in_flight=in_flight, output=output))
    assert (found.state, found.processed_tokens, found.output_tokens) == ("generating", PROMPT, output)
    assert (found.cached_tokens, found.prefill_seconds) == (None, None)


def test_dropped_work_goes_back_and_is_never_told_past_the_prompt() -> None:
    crossing = running(PROMPT + 8, output=9)
    crossing.status, crossing.num_computed_tokens = RequestStatus.PREEMPTED, 0
    waiting = progress_of(scheduler(crossing), ["a"])["a"]
    assert (waiting.state, waiting.queue_position, waiting.processed_tokens) == ("queued", 0, 0)
    crossing.status = RequestStatus.RUNNING
    crossing.record_event(EngineCoreEventType.SCHEDULED)
    for computed, processed in ((128, 128), (PROMPT, PROMPT), (PROMPT + 4, PROMPT)):
        crossing.num_computed_tokens = computed
        again = told(crossing)
        assert (again.state, again.processed_tokens, again.prompt_tokens) == ("prefill", processed, PROMPT)
        assert again.prefill_seconds is not None
    crossing.num_computed_tokens = PROMPT + 8
    assert told(crossing).state == "generating"


def test_keys_that_another_machine_still_sends_are_not_there_yet() -> None:
    loading = running(PROMPT - 16, cached=PROMPT - 16)
    loading.status = RequestStatus.WAITING_FOR_REMOTE_KVS
    found = told(loading)
    assert (found.state, found.queue_position, found.processed_tokens) == ("queued", None, 0)


def test_without_statistics_there_is_no_time() -> None:
    silent = running(128)
    silent.events.clear()
    assert told(silent).prefill_seconds is None


def test_every_engine_core_gets_the_method() -> None:
    from longrope_vllm.plugin import PATCHES, progress

    assert "progress" in PATCHES["vllm.v1.engine.core"]
    from vllm.v1.engine.core import EngineCore

    progress.install()
    progress.install()
    core = SimpleNamespace(scheduler=scheduler(request("a")))
    assert EngineCore.longrope_progress(core, ["a", "b"])["a"]["queue_position"] == 0
