"""Which of the engine's requests belong to a response: vLLM's own output processor, without an engine behind it."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the output processor is vLLM's")

from vllm import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.output_processor import OutputProcessor

from longrope_vllm.plugin import followed
from longrope_vllm.plugin.followed import Followed, following


@pytest.fixture
def processor() -> OutputProcessor:
    followed.install()
    followed.install()
    return OutputProcessor(None, log_stats=True)


def add(processor: OutputProcessor, name: str, *, prompt: int = 40) -> None:
    request = EngineCoreRequest(
        request_id=name,
        prompt_token_ids=list(range(prompt)),
        mm_features=None,
        sampling_params=SamplingParams(max_tokens=4),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        external_req_id=name.rpartition("-")[0],
    )
    processor.add_request(request, None)


def names(response: Followed) -> list[str]:
    return [request.name for request in response.requests()]


def test_what_is_handed_over_belongs_to_the_response_that_is_worked_on(processor: OutputProcessor) -> None:
    one, other = Followed("cmpl-1"), Followed("cmpl-1")
    with following(one):
        add(processor, "cmpl-1-0-aaaaaaaa")
    with following(other):  # the same name, sent by another client
        add(processor, "cmpl-1-0-bbbbbbbb")
    add(processor, "cmpl-1-0-cccccccc")
    assert (names(one), names(other)) == (["cmpl-1-0-aaaaaaaa"], ["cmpl-1-0-bbbbbbbb"])


def test_tasks_of_two_responses_at_once_are_kept_apart(processor: OutputProcessor) -> None:
    async def prompts(response: Followed, count: int) -> AsyncGenerator[int, None]:
        async def one(number: int) -> None:
            await asyncio.sleep(0)
            add(processor, f"{response.id}-{number}-aaaaaaaa")

        for number in range(count):
            await asyncio.create_task(one(number))
            yield number

    async def both() -> tuple[Followed, Followed]:
        first, second = Followed("cmpl-1"), Followed("cmpl-2")
        streams = [(response, prompts(response, 2)) for response in (first, second)]
        for _ in range(2):
            for response, stream in streams:
                with following(response):
                    await anext(stream)
        for _, stream in streams:
            await stream.aclose()
        return first, second

    first, second = asyncio.run(both())
    assert names(first) == ["cmpl-1-0-aaaaaaaa", "cmpl-1-1-aaaaaaaa"]
    assert names(second) == ["cmpl-2-0-aaaaaaaa", "cmpl-2-1-aaaaaaaa"]


def test_a_beam_search_is_followed_by_its_first_request(processor: OutputProcessor) -> None:
    beams = Followed("cmpl-1", first_only=True)
    with following(beams):
        add(processor, "cmpl-1-beam-aaaaaaaa")
        add(processor, "cmpl-1-beam-bbbbbbbb")
    assert names(beams) == ["cmpl-1-beam-aaaaaaaa"]


def test_numbers_are_those_of_the_output_processor_and_stay_after_the_end(processor: OutputProcessor) -> None:
    response = Followed("cmpl-1")
    with following(response):
        add(processor, "cmpl-1-0-aaaaaaaa", prompt=40)
    (waiting,) = response.requests()
    assert (waiting.prompt_tokens, waiting.output_tokens, waiting.prefill_seconds) == (40, 0, None)
    state: Any = processor.request_states["cmpl-1-0-aaaaaaaa"]
    state.detokenizer.update([7, 8, 9], False)
    state.num_cached_tokens = 32
    state.stats.scheduled_ts, state.stats.first_token_ts = 100.0, 102.5
    (begun,) = response.requests()
    assert (begun.cached_tokens, begun.output_tokens, begun.prefill_seconds) == (32, 3, 2.5)
    response.close("finished")
    state.detokenizer.update([10], False)
    assert response.requests() == (begun,)
    response.close("aborted")
    assert response.end == "finished"
    assert not vars(response)["_states"]  # they hold the prompt


def test_nothing_is_added_to_what_has_ended() -> None:
    response = Followed("cmpl-1")
    response.close("aborted")
    response.add(SimpleNamespace(request_id="cmpl-1-0-aaaaaaaa"))
    assert response.requests() == ()
