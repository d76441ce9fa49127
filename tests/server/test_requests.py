"""``GET /v1/requests/{id}`` over the layer that keeps responses, without an engine: a fake one answers by script."""

import asyncio
import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="comes with vLLM")

from fake_responses import FakeEngine, FakeStream, answered, body, engine_state, handler_of, raw_request, told
from fastapi import FastAPI
from fastapi.testclient import TestClient

from longrope_vllm.plugin.followed import Followed, current
from longrope_vllm.server import requests
from longrope_vllm.server.api_error import ApiError, answer_api_error
from longrope_vllm.server.layers import Api
from longrope_vllm.server.requests import Requests, follow


def asked(kept: Requests, name: str, *, engine: FakeEngine | None = None, token: str | None = None) -> Any:
    """Status and document of the route."""
    app = FastAPI()
    app.include_router(requests.router)
    app.add_exception_handler(ApiError, answer_api_error)
    app.state.longrope_requests, app.state.longrope_engine = kept, engine or FakeEngine()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with TestClient(app, headers=headers) as client:
        answer = client.get(f"/v1/requests/{name}")
    return answer.status_code, answer.json()


def state_of(kept: Requests, name: str, **options: Any) -> str:
    status, found = asked(kept, name, **options)
    return str(found["state"]) if status == 200 else found["error"]["code"]


def handled(
    kept: Requests, answer: Callable[[], Any], *, api: Api = "chat", request: Any = None, raw: Any = None
) -> Any:
    """What the layer makes of the ``answer`` of a handler."""
    handle = follow(kept)(api, handler_of(answer))
    return asyncio.run(handle(request or body(stream=False), raw or raw_request()))


def finished() -> SimpleNamespace:
    return answered(current())


def test_a_request_is_found_from_the_call_of_its_handler_to_after_its_end() -> None:
    kept, states, state = Requests(keyed=False), [], engine_state("chatcmpl-1-0f3c9d1e")
    script = [told("queued", position=2), told("prefill", cached=128, processed=256)]

    def answer() -> SimpleNamespace:
        states.append(state_of(kept, "chatcmpl-1"))
        followed = current()
        assert followed is not None
        followed.add(state)
        for one in script:
            states.append(state_of(kept, "chatcmpl-1", engine=FakeEngine([one])))
        state.tokens.append(7)
        states.append(state_of(kept, "chatcmpl-1", engine=FakeEngine([told("generating", processed=400)])))
        return SimpleNamespace(id="chatcmpl-1")

    handled(kept, answer)
    assert [*states, state_of(kept, "chatcmpl-1")] == ["preparing", "queued", "prefill", "generating", "finished"]


def test_the_report_holds_the_numbers_of_the_engine() -> None:
    kept, found, state = Requests(keyed=False), [], engine_state("chatcmpl-1-0f3c9d1e")

    def answer() -> SimpleNamespace:
        found.append(asked(kept, "1")[1])
        followed = current()
        assert followed is not None
        followed.add(state)
        for one in (told("queued", position=2), told("prefill", cached=128, processed=256)):
            found.append(asked(kept, "1", engine=FakeEngine([one]))[1])
        return answered(followed, name=state.request_id)

    handled(kept, answer)
    preparing = {
        "id": "chatcmpl-1",
        "object": "request",
        "state": "preparing",
        "queue_position": None,
        "prompt_progress": None,
        "output_tokens": 0,
        "longrope": None,
    }
    nothing = {"total": 400, "cache": 0, "processed": 0, "time_ms": 0}
    assert found[0] == preparing
    assert found[1] == {**preparing, "state": "queued", "queue_position": 2, "prompt_progress": nothing}
    part = {"total": 400, "cache": 128, "processed": 256, "time_ms": 1500}
    assert found[2] == {**preparing, "state": "prefill", "prompt_progress": part}
    whole = {"total": 400, "cache": 0, "processed": 400, "time_ms": 2000}
    end = {**preparing, "state": "finished", "output_tokens": 1, "prompt_progress": whole}
    assert asked(kept, "chatcmpl-1") == (200, end)


@pytest.mark.parametrize(
    ("api", "names", "not_names"),
    [
        ("chat", ["chatcmpl-mine", "mine"], ["1", "chatcmpl-1", "cmpl-mine", "min"]),
        ("completions", ["cmpl-mine", "mine"], ["1", "cmpl-1", "chatcmpl-mine", "cmpl-mine-0"]),
        ("responses", ["resp_1", "mine"], ["resp_mine", "chatcmpl-mine"]),
    ],
)
def test_a_request_goes_by_the_id_of_its_response_and_the_name_the_client_gave_it(
    api: Api, names: list[str], not_names: list[str]
) -> None:
    kept = Requests(keyed=False)
    request = body(stream=False, request_id="resp_1" if api == "responses" else "1")
    handled(kept, finished, api=api, request=request, raw=raw_request(name="mine"))
    assert [state_of(kept, name) for name in names] == ["finished"] * len(names)
    assert [state_of(kept, name) for name in not_names] == ["request_not_found"] * len(not_names)
    assert asked(kept, "mine")[1]["id"] == names[0]


def test_names_that_only_look_alike_are_other_requests() -> None:
    kept = Requests(keyed=False)
    for name in ("job", "job-1"):
        handled(kept, lambda name=name: answered(current(), prompt=len(name)), raw=raw_request(name=name))  # type: ignore[misc]
    assert asked(kept, "job")[1]["prompt_progress"]["total"] == 3
    assert asked(kept, "job-1")[1]["prompt_progress"]["total"] == 5


def test_the_latest_request_of_a_name_is_the_one_that_is_told() -> None:
    kept = Requests(keyed=False)
    for prompt in (10, 20):
        handled(kept, lambda prompt=prompt: answered(current(), prompt=prompt), raw=raw_request(name="mine"))  # type: ignore[misc]
    assert asked(kept, "mine")[1]["prompt_progress"]["total"] == 20


def test_a_key_sees_its_own_requests_only_also_under_the_same_name() -> None:
    kept = Requests(keyed=True)
    for token, prompt in (("first", 10), ("second", 20)):
        answer: Callable[[], Any] = lambda prompt=prompt: answered(current(), prompt=prompt)  # noqa: E731
        handled(kept, answer, raw=raw_request(token=token, name="mine"))
    for token, prompt in (("first", 10), ("second", 20)):
        assert asked(kept, "mine", token=token)[1]["prompt_progress"]["total"] == prompt
    status, found = asked(kept, "mine", token="third")
    assert (status, found["error"]["code"]) == (404, "request_not_found")
    assert "found 'mine'" in found["error"]["message"]
    assert state_of(kept, "mine") == "request_not_found"


def test_a_server_without_keys_knows_no_owners() -> None:
    kept = Requests(keyed=False)
    handled(kept, finished, raw=raw_request(token="none", name="mine"))
    assert state_of(kept, "mine") == "finished"


def test_no_key_is_kept_in_memory() -> None:
    kept = Requests(keyed=True)
    handled(kept, finished, raw=raw_request(token="very-secret", name="mine"))
    assert "very-secret" not in str(vars(kept))


def test_the_oldest_ended_requests_are_forgotten_and_open_ones_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "KEPT", 3)
    kept = Requests(keyed=False)
    stream = handled(kept, FakeStream(), request=body(request_id="open"))
    for number in range(5):
        handled(kept, finished, request=body(stream=False, request_id=str(number)))
    states = {name: state_of(kept, name) for name in ("open", "0", "1", "2", "3", "4")}
    gone = dict.fromkeys(("0", "1"), "request_not_found")
    assert states == {"open": "preparing", **gone, **dict.fromkeys(("2", "3", "4"), "finished")}
    del stream
    gc.collect()  # it never began: nobody could close it
    assert state_of(kept, "open") == "aborted"


def test_a_forgotten_request_does_not_take_a_later_one_of_its_name_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "KEPT", 1)
    kept = Requests(keyed=False)
    for _ in range(2):
        handled(kept, finished, raw=raw_request(name="mine"))
    assert state_of(kept, "mine") == "finished"


@pytest.mark.parametrize("has_begun", [False, True])
def test_an_answer_without_an_id_is_no_answer(has_begun: bool) -> None:
    kept = Requests(keyed=False)

    def refuse() -> SimpleNamespace:
        if has_begun:
            finished()
        return SimpleNamespace(error="refused")

    handled(kept, refuse)
    assert state_of(kept, "1") == "aborted"


def test_a_handler_that_raises_leaves_an_aborted_request() -> None:
    kept = Requests(keyed=False)

    def fail() -> Any:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        handled(kept, fail)
    assert state_of(kept, "1") == "aborted"


def test_a_client_that_leaves_a_handler_aborts_its_request() -> None:
    kept = Requests(keyed=False)

    async def leave() -> None:
        async def handle(request: Any, raw: Any) -> None:
            await asyncio.Event().wait()

        working = asyncio.create_task(follow(kept)("chat", handle)(body(stream=False), raw_request()))
        await asyncio.sleep(0)
        assert current() is None
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    asyncio.run(leave())
    assert state_of(kept, "1") == "aborted"


@pytest.mark.parametrize(("items", "taken", "end"), [(2, 3, "finished"), (2, 1, "aborted"), (0, 1, "aborted")])
def test_a_stream_ends_where_it_ends(items: int, taken: int, end: str) -> None:
    kept, stream = Requests(keyed=False), FakeStream(items=["data: {}\n\n"] * items)

    async def read() -> None:
        stream.output.set()
        answer = await follow(kept)("chat", handler_of(stream))(body(), raw_request())
        for _ in range(taken):
            await anext(answer, None)
        await answer.aclose()
        assert stream.closed.is_set()

    asyncio.run(read())
    assert state_of(kept, "1") == end


def test_every_item_of_a_stream_may_be_read_in_another_task() -> None:
    kept = Requests(keyed=False)
    seen: list[Followed | None] = []

    async def items() -> Any:
        for number in range(3):
            seen.append(current())
            yield number

    async def read() -> None:
        answer = await follow(kept)("responses", handler_of(items))(body(), raw_request())
        while await asyncio.create_task(next_of(answer)) is not None:
            assert current() is None

    async def next_of(answer: Any) -> Any:
        return await anext(answer, None)

    asyncio.run(read())
    assert len(seen) == 3
    assert {one.id for one in seen if one is not None} == {"1"}


def test_a_response_in_the_background_ends_with_its_task() -> None:
    kept, states = Requests(keyed=False), []

    async def respond() -> None:
        done = asyncio.Event()

        async def work() -> None:
            finished()
            await done.wait()

        background: dict[str, asyncio.Task[None]] = {}

        def answer() -> SimpleNamespace:
            background["1"] = asyncio.create_task(work())
            return SimpleNamespace(id="1", status="queued")

        raw = raw_request(openai_serving_responses=SimpleNamespace(background_tasks=background))
        await follow(kept)("responses", handler_of(answer))(body(stream=False, background=True), raw)
        await asyncio.sleep(0)
        states.append(state_of(kept, "1", engine=FakeEngine([told("generating", processed=400)])))
        done.set()
        await background["1"]
        await asyncio.sleep(0)

    asyncio.run(respond())
    assert [*states, state_of(kept, "1")] == ["generating", "finished"]


def test_the_route_stands_in_the_openapi_document_with_examples() -> None:
    app = FastAPI()
    app.include_router(requests.router)
    operation = app.openapi()["paths"]["/v1/requests/{request_id}"]["get"]
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    fields = app.openapi()["components"]["schemas"]["RequestReport"]["properties"]
    assert fields.keys() - example.keys() == {"queue_position"}  # null: FastAPI leaves it out of the document
    assert operation["responses"]["404"]["content"]["application/json"]["example"]["error"]["code"]
