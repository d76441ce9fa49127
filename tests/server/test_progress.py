"""Progress of a real server, as clients meet it: the openai SDK, vLLM's own benchmark client, and plain HTTP.

One sequence runs at a time and a step computes 16 tokens, so a request waits as long as a test keeps another one going,
and its prefill of 4,000 tokens takes 250 steps. The oracle is the prompt itself: one token a character.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any

import openai
import pytest

from longrope_vllm.server.running import running
from tiny_models import byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

PROMPT = 4000
BLOCK = 128
KEY, OTHER = "key-of-the-tests", "key-of-another"
OPTIONS = ["--tiers", "4k:yarn", "--enforce-eager", "--dtype", "float32", "--served-model-name", "tiny"]
OPTIONS += ["--max-num-seqs", "1", "--max-num-batched-tokens", "16", "--sse-keep-alive-interval", "1"]
OPTIONS += ["--api-key", KEY, OTHER]
ASKED = {"return_progress": True, "ignore_eos": True}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    checkpoint = byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("progress"), layers=20))
    log = checkpoint.parent / "progress.log"
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with running(
        "longrope_vllm.cli.main", ["serve", str(checkpoint), *OPTIONS], environment=environment, log=log
    ) as started:
        yield started.url


def chat(client: openai.OpenAI, text: str, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0, **options)


def completions(client: openai.OpenAI, text: str, **options: Any) -> Any:
    return client.completions.create(model="tiny", prompt=text, max_tokens=4, temperature=0, **options)


def responses(client: openai.OpenAI, text: str, **options: Any) -> Any:
    return client.responses.create(model="tiny", input=text, max_output_tokens=4, temperature=0, **options)


APIS: dict[str, Callable[..., Any]] = {"chat": chat, "completions": completions, "responses": responses}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=120) as made:
        for ask in APIS.values():
            ask(made, "first")  # what client and server import for it takes seconds, in which nobody must wait
        yield made


each_api = pytest.mark.parametrize("api", APIS)


def id_of(item: Any) -> str:
    """The id of the response that an item of a stream belongs to."""
    return str(item.response.id if hasattr(item, "response") else item.id)


def told(items: list[Any]) -> list[Any]:
    """What the items tell of progress, in their order."""
    return [item.prompt_progress for item in items if hasattr(item, "prompt_progress")]


def report(client: openai.OpenAI, name: str, **options: Any) -> Any:
    """What ``GET /v1/requests/{id}`` tells."""
    return client.with_options(**options).get(f"/requests/{name}", cast_to=object)


def wait_for(state: str, client: openai.OpenAI, name: str) -> Any:
    """The first report in ``state``."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            found = report(client, name)
        except openai.NotFoundError:
            continue
        if found["state"] == state:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{name} was not {state} in time")


@contextmanager
def busy(client: openai.OpenAI) -> Iterator[None]:
    """The server generates for somebody else."""
    body = {"ignore_eos": True}
    with closing(
        client.completions.create(model="tiny", prompt="busy", max_tokens=PROMPT, stream=True, extra_body=body)
    ) as stream:
        next(iter(stream))
        yield


@each_api
def test_a_stream_tells_queue_and_prefill_and_then_the_answer(api: str, client: openai.OpenAI) -> None:
    text = f"{api:{PROMPT}}"  # no other test's beginning, which the cache would have
    with busy(client):
        stream = iter(APIS[api](client, text, stream=True, extra_body=ASKED))
        items = [next(stream)]
        while not told(items):
            items.append(next(stream))
        waiting = report(client, id_of(items[0]))
        with pytest.raises(openai.NotFoundError) as caught:
            report(client, id_of(items[0]), api_key=OTHER)
        assert caught.value.code == "request_not_found"
    items += stream
    first, *rest = progress = told(items)
    assert first == {"total": PROMPT, "cache": 0, "processed": 0, "time_ms": 0, "queue_position": 0}
    assert (waiting["state"], waiting["queue_position"]) == ("queued", 0)
    assert waiting["prompt_progress"] == {name: value for name, value in first.items() if name != "queue_position"}
    assert not any("queue_position" in one for one in rest)
    for name in ("processed", "time_ms"):
        assert all(before[name] <= after[name] for before, after in pairwise(progress)), name
    assert any(0 < one["processed"] < PROMPT for one in rest)
    assert rest[-1]["processed"] == PROMPT
    assert {(one["total"], one["cache"]) for one in progress} == {(PROMPT, 0)}
    last_told = max(index for index, item in enumerate(items) if hasattr(item, "prompt_progress"))
    assert not any(is_output(item) for item in items[:last_told])
    assert any(is_output(item) for item in items[last_told:])
    done = report(client, id_of(items[0]))
    assert (done["state"], done["output_tokens"]) == ("finished", 4)
    assert done["prompt_progress"] == {**rest[-1], "time_ms": done["prompt_progress"]["time_ms"]}
    assert (done["longrope"]["tier_max_length"], done["longrope"]["tokens"]) == (4096, PROMPT + 4)


def is_output(item: Any) -> bool:
    """Whether a client or a benchmark may take ``item`` for a token."""
    return bool(item.choices) if hasattr(item, "choices") else item.type.startswith("response.output")


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_chunks_of_progress_have_the_head_of_the_others(api: str, client: openai.OpenAI) -> None:
    chunks = list(APIS[api](client, api * 20, stream=True, extra_body=ASKED))
    assert {bool(chunk.choices) for chunk in chunks} == {False, True}
    assert len({(chunk.id, chunk.object, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_events_of_responses_are_numbered_without_gaps(client: openai.OpenAI) -> None:
    events = list(responses(client, "numbers" * 100, stream=True, extra_body=ASKED))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    made = [event for event in events if hasattr(event, "prompt_progress")]
    assert made
    assert {event.type for event in made} == {"response.in_progress"}
    assert all(event.response == events[1].response for event in made)


def test_a_second_question_reuses_the_cache_and_says_so(client: openai.OpenAI) -> None:
    text = "second" * 500
    for cached in (0, len(text) // BLOCK * BLOCK):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(chat(client, text, extra_body=ASKED, **options))
        assert {one["cache"] for one in told(chunks)[-1:]} == {cached}
        assert (chunks[-1].usage.prompt_tokens_details.cached_tokens or 0) == cached


@each_api
def test_nothing_is_told_unasked(api: str, client: openai.OpenAI) -> None:
    items = list(APIS[api](client, "quiet" * 200, stream=True))
    assert told(items) == []


@each_api
def test_progress_without_a_stream_is_refused_with_what_to_do(api: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="set stream=true, or send an X-Request-Id") as caught:
        APIS[api](client, "a", extra_body=ASKED)
    assert (caught.value.code, caught.value.param) == ("stream_required", "return_progress")


@each_api
def test_a_client_that_does_not_stream_can_ask_by_its_own_name(api: str, client: openai.OpenAI) -> None:
    name = f"report-{api}-7"
    with ThreadPoolExecutor(1) as pool:
        with busy(client):
            answer = pool.submit(APIS[api], client, f"{name:3200}", extra_headers={"X-Request-Id": name})
            assert wait_for("queued", client, name)["prompt_progress"]["total"] == 3200
        assert wait_for("prefill", client, name)["queue_position"] is None
        response = answer.result()
    done = report(client, name)
    assert (done["id"], done["state"], done["queue_position"]) == (response.id, "finished", None)
    assert done["prompt_progress"]["processed"] == 3200
    with pytest.raises(openai.NotFoundError):
        report(client, name, api_key=OTHER)


@each_api
def test_a_client_that_leaves_aborts_its_request(api: str, client: openai.OpenAI) -> None:
    name = f"left-{api}"
    with busy(client):
        stream = APIS[api](client, "left", stream=True, extra_body=ASKED, extra_headers={"X-Request-Id": name})
        item = next(item for item in stream if told([item]))
        assert wait_for("queued", client, name)["id"] == id_of(item)
        stream.close()
        assert wait_for("aborted", client, name)["output_tokens"] == 0
    assert chat(client, "next").usage.completion_tokens == 4  # nobody stands in the queue


@each_api
def test_a_silent_stream_is_kept_alive(api: str, client: openai.OpenAI) -> None:
    raw = {"chat": client.chat.completions, "completions": client.completions, "responses": client.responses}[api]
    given: dict[str, Any] = {
        "chat": {"messages": [{"role": "user", "content": "a"}]},
        "completions": {"prompt": "a"},
        "responses": {"input": "a"},
    }[api]
    with busy(client), raw.with_streaming_response.create(model="tiny", stream=True, **given) as answer:  # type: ignore[attr-defined]
        assert next(line for line in answer.iter_lines() if line.startswith(":")) == ": keep-alive"


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_vllms_benchmark_counts_the_first_token_and_no_progress(
    api: str, url: str, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aiohttp
    from vllm.benchmarks.lib.endpoint_request_func import ASYNC_REQUEST_FUNCS, RequestFuncInput

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    request = RequestFuncInput(
        prompt=f"bench {api} " * 200,
        api_url=f"{url}/v1/{'chat/' * (api == 'chat')}completions",
        prompt_len=0,
        output_len=16,
        model="tiny",
        ignore_eos=True,
        extra_body={"return_progress": True},
        request_id=f"bench-{api}",
    )

    async def measure() -> Any:
        async with aiohttp.ClientSession() as session:
            kind = {"chat": "openai-chat", "completions": "openai"}[api]
            return await ASYNC_REQUEST_FUNCS[kind](request, session)

    found = asyncio.run(measure())
    assert found.success, found.error
    assert (found.prompt_len, found.output_tokens) == (len(request.prompt), 16)
    prefill = report(client, f"bench-{api}")["prompt_progress"]["time_ms"] / 1000
    assert found.ttft >= prefill > 0
