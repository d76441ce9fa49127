"""Limits, counts, truncation and retries as clients meet them: a real server, plain HTTP and OpenAI's own SDK."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.server.running import running
from tiny_models import LONG, WINDOW, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

OPTIONS = ["--enforce-eager", "--dtype", "float32", "--max-num-batched-tokens", "256", "--served-model-name", "tiny"]
KEY = "secret"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("limits")
    checkpoint = byte_tokenizer(tiny_llama(folder / "model"))
    factors = folder / "factors.json"
    write_factors(factors, Factors.from_baseline("yarn", Geometry.from_checkpoint(checkpoint), LONG))
    options = ["serve", str(checkpoint), "--factors", str(factors), "--api-key", KEY, *OPTIONS]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with running("longrope_vllm.cli.main", options, environment=environment, log=folder / "log") as started:
        yield started.url


def post(url: str, route: str, **fields: Any) -> tuple[int, Any, str]:
    """Status, the answer as JSON (None for a stream) and as text."""
    body = json.dumps({"model": "tiny", "temperature": 0, "ignore_eos": True, **fields}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + route, body, headers), timeout=300) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    return status, None if text.startswith(("data:", "event:")) else json.loads(text), text


@pytest.fixture
def sdk(url: str) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        yield client


ROUTES = {
    "/v1/completions": (lambda text: {"prompt": text}, "max_tokens", "prompt_tokens"),
    "/v1/chat/completions": (
        lambda text: {"messages": [{"role": "user", "content": text}]},
        "max_tokens",
        "prompt_tokens",
    ),
    "/v1/responses": (lambda text: {"input": text}, "max_output_tokens", "input_tokens"),
}
each_route = pytest.mark.parametrize("route", ROUTES)
each_way = pytest.mark.parametrize("stream", [False, True])


@each_route
@each_way
@pytest.mark.parametrize(("length", "max_tokens"), [(LONG + 1, None), (5 * LONG, None), (200_000, 5), (LONG - 5, 6)])
def test_what_does_not_fit_is_refused_with_the_numbers(
    route: str, stream: bool, length: int, max_tokens: int | None, url: str
) -> None:
    prompt, limit, _ = ROUTES[route]
    wish = {} if max_tokens is None else {limit: max_tokens}
    status, answer, _ = post(url, route, **prompt("a" * length), **wish, stream=stream)
    assert status == 400
    error = answer["error"]
    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
    assert (error["prompt_tokens"], error.get("max_tokens"), error["limit"]) == (length, max_tokens, LONG)


@each_route
@pytest.mark.parametrize(("length", "tier"), [(50, 0), (WINDOW, 0), (WINDOW + 1, 1), (LONG - 3, 1)])
def test_the_count_is_what_usage_says_and_the_tier_is_that_of_the_prompt(
    route: str, length: int, tier: int, url: str
) -> None:
    prompt, limit, used = ROUTES[route]
    _, counted, _ = post(url, "/v1/responses/input_tokens", **prompt("b" * length))
    _, answer, _ = post(url, route, **prompt("b" * length), **{limit: 1})
    assert counted == {
        "object": "response.input_tokens",
        "input_tokens": answer["usage"][used],
        "limit": LONG,
        "longrope": {"tier": tier, "tier_max_length": (WINDOW, LONG)[tier]},
    }


def test_the_sdk_counts_a_document_that_no_tier_holds(sdk: Any) -> None:
    counted = sdk.responses.input_tokens.count(model="tiny", input="a" * 100_000, instructions="b" * 7)
    assert (counted.object, counted.input_tokens, counted.longrope) == ("response.input_tokens", 100_007, None)


def test_counting_needs_the_key(url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/responses/input_tokens", b"{}"), timeout=30)
    with caught.value as error:
        assert error.code == 401


def test_the_sdk_knows_the_error(sdk: Any) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a" * 2000}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.body["prompt_tokens"] == 2000


@each_route
@each_way
def test_a_truncated_prompt_is_reported(route: str, stream: bool, url: str) -> None:
    prompt, limit, used = ROUTES[route]
    wish: dict[str, Any] = {"truncation": "auto"} if route == "/v1/responses" else {"truncate_prompt_tokens": -1}
    usage = {"stream_options": {"include_usage": True}} if stream and route != "/v1/responses" else {}
    status, answer, text = post(url, route, **prompt("c" * 3000), **wish, **usage, **{limit: 4}, stream=stream)
    assert status == 200
    told = '"longrope_truncation":{"prompt_tokens":3000,"kept":1020,"side":"left"}'
    if stream:
        assert text.count(told) == (3 if route == "/v1/responses" else 2)
    else:
        assert told in text.replace(" ", "")
        assert answer["usage"][used] == LONG - 4


def metric(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    asked = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def test_a_request_that_the_sdk_retries_is_computed_once(url: str, sdk: Any) -> None:
    asked = {"model": "tiny", "prompt": "d" * 100, "max_tokens": LONG - 100, "extra_body": {"ignore_eos": True}}
    before = metric(url, "vllm:prompt_tokens_total"), metric(url, "vllm:request_success_total")
    impatient = sdk.with_options(timeout=1.2, max_retries=60)
    answer = impatient.completions.with_raw_response.create(**asked, temperature=0)
    assert answer.retries_taken >= 1
    assert answer.parse().usage.completion_tokens == LONG - 100
    after = metric(url, "vllm:prompt_tokens_total"), metric(url, "vllm:request_success_total")
    assert (after[0] - before[0], after[1] - before[1]) == (100, 1)


def test_health_is_answered_while_megabytes_are_counted(url: str) -> None:
    answered: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            with urllib.request.urlopen(f"{url}/health", timeout=60) as health:
                answered.append(health.status)
            done.wait(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        status, answer, _ = post(
            url, "/v1/chat/completions", messages=[{"role": "user", "content": "a b " * 1_250_000}]
        )
    finally:
        done.set()
        asking.join()
    assert (status, answer["error"]["prompt_tokens"]) == (400, 5_000_000)
    assert len(answered) >= 10
    assert set(answered) == {200}
