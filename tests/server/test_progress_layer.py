"""Progress merged into streams, without an engine: what is sent, in which order, and that nothing stays behind.

The oracle of the numbers is the script of the fake engine; that of the order is vLLM's stream without progress.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with vLLM")

from fake_responses import FakeEngine, FakeStream, body, engine_state, handler_of, raw_request, told
from fastapi.responses import StreamingResponse

from longrope_vllm.server import progress
from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.layers import Api
from longrope_vllm.server.progress import tell_progress
from longrope_vllm.server.requests import Requests, follow

ASKED = {"return_progress": True}
CHUNK = 'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"tiny","choices":[{}]}\n\n'
DONE = "data: [DONE]\n\n"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the engine without pauses: the fake one answers when it is its turn."""
    monkeypatch.setattr(progress, "INTERVAL", 0.001)
    monkeypatch.setattr(progress, "EARLY", 0.001)


class Event(SimpleNamespace):
    """An event of the responses API."""

    def model_copy(self, *, update: dict[str, Any]) -> "Event":
        return Event(**{**vars(self), **update})


def opening() -> list[Event]:
    return [
        Event(type="response.created", sequence_number=0),
        Event(type="response.in_progress", sequence_number=1, response="initial"),
    ]


async def streamed(api: Api, stream: FakeStream, engine: FakeEngine, /, **fields: Any) -> Any:
    """The stream that the layers make of ``stream``."""
    handle = follow(Requests(keyed=False))(api, tell_progress(engine)(api, handler_of(stream)))
    return await handle(body(**fields), raw_request())


async def collected(api: Api, stream: FakeStream, engine: FakeEngine, **fields: Any) -> list[Any]:
    """All items; the engine's output comes once its script is at its end."""

    async def answer() -> None:
        await engine.reached.wait()
        stream.output.set()

    answering = asyncio.create_task(answer())
    items = [item async for item in await streamed(api, stream, engine, **fields)]
    answering.cancel()
    return items


def run(test: Callable[[], Awaitable[None]]) -> None:
    """``test`` in a loop of its own, and no task is left when it is over."""

    async def alone() -> None:
        await test()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(alone())


def chunks(items: list[str]) -> list[Any]:
    return [json.loads(item.removeprefix("data: ")) for item in items if item.startswith("data: {")]


def script() -> list[dict[str, Any] | Exception]:
    return [
        told("queued", position=1),
        told("queued", position=1),
        told("queued", position=0),
        told("prefill", cached=128, processed=128),
        told("prefill", cached=128, processed=256),
        told("prefill", cached=128, processed=256),
        told("prefill", cached=128, processed=384),
    ]


TOLD = [
    {"total": 400, "cache": 0, "processed": 0, "time_ms": 0, "queue_position": 1},
    {"total": 400, "cache": 0, "processed": 0, "time_ms": 0, "queue_position": 0},
    {"total": 400, "cache": 128, "processed": 128, "time_ms": 1500},
    {"total": 400, "cache": 128, "processed": 256, "time_ms": 1500},
    {"total": 400, "cache": 128, "processed": 384, "time_ms": 1500},
    {"total": 400, "cache": 128, "processed": 400, "time_ms": 2000},
]


@pytest.mark.parametrize(("api", "kind"), [("chat", "chat.completion.chunk"), ("completions", "text_completion")])
def test_chunks_without_choices_tell_what_changed_until_the_prefill_is_done(api: Api, kind: str) -> None:
    async def test() -> None:
        stream = FakeStream(items=[CHUNK, CHUNK, DONE], cached=128)
        items = await collected(api, stream, FakeEngine(script()), **ASKED)
        *made, first, second = chunks(items)
        assert [chunk.pop("prompt_progress") for chunk in made] == TOLD
        head = {"object": kind, "model": "tiny", "choices": [], "created": first["created"]}
        assert all(chunk == {"id": {"chat": "chatcmpl-1"}.get(api, "cmpl-1"), **head} for chunk in made)
        assert first["choices"] == second["choices"] == [{}]
        assert (first["created"], items[-1]) == (second["created"], DONE)
        assert stream.closed.is_set()

    run(test)


def test_nothing_is_told_and_nothing_asked_without_the_field() -> None:
    async def test() -> None:
        for fields in ({}, {"return_progress": False}, {"return_progress": None}):
            stream, engine = FakeStream(items=[CHUNK, DONE]), FakeEngine()
            stream.output.set()
            assert [item async for item in await streamed("chat", stream, engine, **fields)] == [CHUNK, DONE]
            assert engine.asked == 0

    run(test)


def test_nothing_is_told_after_the_first_token() -> None:
    async def test() -> None:
        stream, engine = FakeStream(items=[CHUNK, CHUNK, DONE]), FakeEngine(script())
        stream.output.set()  # it is there before the engine has answered one question
        items = await collected("chat", stream, engine, **ASKED)
        assert ["prompt_progress" in chunk for chunk in chunks(items)] == [True, False, False]
        assert chunks(items)[0]["prompt_progress"] == {"total": 400, "cache": 0, "processed": 400, "time_ms": 2000}

    run(test)


def test_a_generation_that_holds_its_text_back_ends_progress() -> None:
    async def test() -> None:
        stream = FakeStream(items=[CHUNK, DONE])
        engine = FakeEngine([told("prefill", processed=256), told("generating", processed=400)])
        answer = await streamed("chat", stream, engine, **ASKED)
        first = await anext(answer)
        stream.states[0].tokens.append(7)
        second = asyncio.create_task(anext(answer))
        assert [chunks([item])[0]["prompt_progress"]["processed"] for item in (first, await second)] == [256, 400]
        stream.output.set()
        assert [item async for item in answer if "prompt_progress" in item] == []
        assert engine.asked == 2

    run(test)


def test_work_that_goes_back_is_told() -> None:
    async def test() -> None:
        engine = FakeEngine(
            [told("prefill", processed=256), told("queued", position=0), told("prefill", processed=128)]
        )
        items = await collected("chat", FakeStream(items=[CHUNK, DONE]), engine, **ASKED)
        assert [chunk["prompt_progress"]["processed"] for chunk in chunks(items)[:-1]] == [256, 0, 128, 400]

    run(test)


def test_prompts_of_one_response_are_told_together() -> None:
    async def test() -> None:
        states = [engine_state(f"cmpl-1-{number}-0f3c9d1e") for number in range(3)]
        engine = FakeEngine([told("queued", position=4), told("prefill", processed=256)])
        items = await collected("completions", FakeStream(items=[CHUNK, DONE], states=states), engine, **ASKED)
        made = [chunk["prompt_progress"] for chunk in chunks(items)[:-1]]
        assert [(one["total"], one["processed"]) for one in made] == [(1200, 0), (1200, 768), (1200, 1200)]
        assert made[0]["queue_position"] == 4

    run(test)


def test_responses_repeat_in_progress_and_number_events_without_gaps() -> None:
    async def test() -> None:
        items = [Event(type="response.output_text.delta", sequence_number=number) for number in (2, 3)]
        stream = FakeStream(opening=opening(), items=items, cached=128)
        events = await collected("responses", stream, FakeEngine(script()), **ASKED)
        assert [event.sequence_number for event in events] == list(range(4 + len(TOLD)))
        made = events[2:-2]
        assert [event.prompt_progress for event in made] == TOLD
        assert {(event.type, event.response) for event in made} == {("response.in_progress", "initial")}
        assert not any(hasattr(event, "prompt_progress") for event in (*events[:2], *events[-2:]))
        assert [item.sequence_number for item in items] == [2, 3]  # a background response replays its own

    run(test)


def test_an_error_passes_unchanged_in_its_place() -> None:
    async def test() -> None:
        stream, engine = FakeStream(items=[ValueError("broken")]), FakeEngine([told("prefill", processed=256)])
        answer = await streamed("chat", stream, engine, **ASKED)
        assert chunks([await anext(answer)])[0]["prompt_progress"]["processed"] == 256
        stream.output.set()
        with pytest.raises(ValueError, match="broken"):
            await anext(answer)
        assert stream.closed.is_set()

    run(test)


def test_an_engine_that_cannot_be_asked_does_not_spoil_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        stream = FakeStream(items=[CHUNK, DONE])
        engine = FakeEngine([told("prefill", processed=256), RuntimeError("no such method")])
        answer = await streamed("chat", stream, engine, **ASKED)
        assert chunks([await anext(answer)])[0]["prompt_progress"]["processed"] == 256
        rest = asyncio.create_task(anext(answer))
        while engine.asked < 2:
            await asyncio.sleep(0)
        stream.output.set()
        assert chunks([await rest])[0]["prompt_progress"]["processed"] == 400
        assert len([item async for item in answer]) == 2
        assert engine.asked == 2

    run(test)
    assert "no such method" in caplog.text


@pytest.mark.parametrize("after", range(4))
def test_closing_the_stream_closes_vllms_at_once(after: int) -> None:
    async def test() -> None:
        stream = FakeStream(items=[CHUNK, CHUNK])
        answer = await streamed("chat", stream, FakeEngine(script()), **ASKED)
        for _ in range(after):
            await anext(answer)
        if after == 3:
            stream.output.set()
            await anext(answer)
        await answer.aclose()
        assert stream.closed.is_set() == (after > 0)  # one that never began has nothing to close

    run(test)


@pytest.mark.parametrize("answers", [[], [told("queued", position=0)], [told("prefill", processed=128)]])
def test_a_client_that_leaves_while_the_engine_works_closes_vllms_stream(answers: list[Any]) -> None:
    async def test() -> None:
        stream, engine = FakeStream(items=[CHUNK]), FakeEngine(answers)

        async def send() -> None:
            async for _ in await streamed("chat", stream, engine, **ASKED):
                pass

        sending = asyncio.create_task(send())
        await engine.reached.wait()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert sending.cancelled()
        assert stream.closed.is_set()

    run(test)


@pytest.mark.parametrize("answers", [[], [told("queued", position=0)], [told("prefill", processed=128)]])
def test_a_disconnect_that_starlette_sees_closes_vllms_stream(answers: list[Any]) -> None:
    """Starlette cancels again and again until the stream has ended, also while that cleans up."""

    async def test() -> None:
        stream, engine = FakeStream(items=[CHUNK]), FakeEngine(answers)
        response = StreamingResponse(await streamed("chat", stream, engine, **ASKED))

        async def receive() -> dict[str, str]:
            await engine.reached.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        await stream.closed.wait()

    run(test)


def test_two_clients_at_once_are_told_of_their_own_requests() -> None:
    async def test() -> None:
        async def one(prompt: int) -> list[int]:
            name = f"chatcmpl-{prompt}-0f3c9d1e"
            stream = FakeStream(items=[CHUNK, DONE], states=[engine_state(name, prompt=prompt)])
            engine = FakeEngine([told("prefill", processed=processed) for processed in range(0, prompt, 10)])
            items = await collected("chat", stream, engine, request_id=str(prompt), **ASKED)
            made = chunks(items)[:-1]
            assert {chunk["id"] for chunk in made} == {f"chatcmpl-{prompt}"}
            assert {chunk["prompt_progress"]["total"] for chunk in made} == {prompt}
            return [chunk["prompt_progress"]["processed"] for chunk in made]

        assert await asyncio.gather(one(100), one(50)) == [[*range(0, 101, 10)], [*range(0, 51, 10)]]

    run(test)


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        (
            {"stream": False, **ASKED},
            "stream_required",
            r"found a request that does not stream.*GET /v1/requests/\{id\}",
        ),
        ({"return_progress": "yes"}, "invalid_value", "Expected true or false as return_progress, found 'yes'"),
        ({"return_progress": 1}, "invalid_value", "found 1"),
    ],
)
def test_what_cannot_be_told_is_refused_before_the_handler(fields: dict[str, Any], code: str, sentence: str) -> None:
    async def test() -> None:
        stream = FakeStream()
        with pytest.raises(ApiError) as caught:
            await streamed("chat", stream, FakeEngine(), **fields)
        assert (caught.value.status, caught.value.body["code"]) == (400, code)
        assert re.search(sentence, str(caught.value))

    run(test)


def test_an_answer_that_is_no_stream_is_handed_on() -> None:
    async def test() -> None:
        refusal = SimpleNamespace(error="too long")
        handle = follow(Requests(keyed=False))("chat", tell_progress(FakeEngine())("chat", handler_of(lambda: refusal)))
        assert await handle(body(**ASKED), raw_request()) is refusal

    run(test)
