"""``longrope serve`` as a user meets it: a process, HTTP, SIGTERM. One server for the whole module."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.server.running import running
from smoke_run import smoke
from tiny_models import LONG, WINDOW, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}
OPTIONS = ["--enforce-eager", "--dtype", "float32", "--max-num-batched-tokens", "256"]
OPTIONS += ["--served-model-name", "tiny", "tiny-1k"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("served")))


@pytest.fixture(scope="module")
def factors(checkpoint: Path) -> Path:
    path = checkpoint.parent / "factors.json"
    write_factors(path, Factors.from_baseline("yarn", Geometry.from_checkpoint(checkpoint), LONG))
    return path


@pytest.fixture(scope="module")
def server(checkpoint: Path, factors: Path) -> Iterator[tuple[str, Path]]:
    """URL and log of a server that gets its factors from a file; the checkpoint itself has none."""
    log = checkpoint.parent / "server.log"
    options = ["serve", str(checkpoint), "--factors", str(factors), *OPTIONS]
    with running("longrope_vllm.cli.main", options, environment=ENVIRONMENT, log=log) as started:
        yield started.url, log


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def post(url: str, route: str, **fields: Any) -> str:
    body = {"model": "tiny", "temperature": 0, "ignore_eos": True, **fields}
    request = urllib.request.Request(f"{url}{route}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        text: str = answer.read().decode()
        return text


def complete(url: str, text: str, max_tokens: int = 4, **fields: Any) -> Any:
    return json.loads(post(url, "/v1/completions", prompt=text, max_tokens=max_tokens, **fields))


def test_the_name_the_address_and_the_tiers_are_printed(server: tuple[str, Path]) -> None:
    url, log = server
    printed = log.read_text()
    assert "longrope: model  tiny" in printed
    assert f"longrope: listen {url}" in printed
    assert f"1–{WINDOW} tokens plain | {WINDOW + 1}–1k tokens longrope" in printed


def test_the_full_length_of_the_factors_is_served_by_default(server: tuple[str, Path]) -> None:
    assert get(f"{server[0]}/v1/models")["data"][0]["max_model_len"] == LONG


def test_the_tiers_in_force_can_be_asked_for(server: tuple[str, Path]) -> None:
    tiers = get(f"{server[0]}/v1/longrope")["tiers"]
    assert [(tier["max_length"], tier["plain"]) for tier in tiers] == [(WINDOW, True), (LONG, False)]


@pytest.mark.parametrize(
    ("length", "max_tokens", "tier", "crossings"), [(50, 4, 0, 0), (500, 4, 1, 0), (250, 20, 1, 1)]
)
def test_the_server_tells_which_tier_served_a_request(
    length: int, max_tokens: int, tier: int, crossings: int, server: tuple[str, Path]
) -> None:
    answer = complete(server[0], "a" * length, max_tokens)
    assert answer["usage"] == {
        **answer["usage"],
        "prompt_tokens": length,
        "completion_tokens": max_tokens,
    }
    assert get(f"{server[0]}/v1/requests/{answer['id']}")["longrope"] == {
        "tier": tier,
        "tier_max_length": (WINDOW, LONG)[tier],
        "tokens": length + max_tokens,
        "crossings": crossings,
        "reprefilled_tokens": crossings * WINDOW,
    }


def test_the_answer_itself_tells_the_tier_and_whether_it_crossed(server: tuple[str, Path]) -> None:
    answer = complete(server[0], "a" * (WINDOW - 6), 20)
    expected = {"tier": 1, "tier_max_length": LONG, "tokens": WINDOW + 14, "crossings": 1, "reprefilled_tokens": WINDOW}
    assert answer["longrope"] == expected
    assert get(f"{server[0]}/v1/requests/{answer['id']}")["longrope"] == expected


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 300}], "max_tokens": 3}),
        ("/v1/responses", {"input": "a" * 300, "max_output_tokens": 3}),
    ],
)
def test_chat_and_responses_tell_the_tier_too(route: str, fields: dict[str, Any], server: tuple[str, Path]) -> None:
    assert json.loads(post(server[0], route, **fields))["longrope"]["tier_max_length"] == LONG


def test_several_choices_are_told_together(server: tuple[str, Path]) -> None:
    answer = complete(server[0], "a" * (WINDOW - 6), 20, n=2, temperature=1)
    assert len(answer["choices"]) == 2
    assert (answer["longrope"]["crossings"], answer["longrope"]["tokens"]) == (2, 2 * (WINDOW + 14))


def chunks(stream: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_a_stream_tells_the_tier_with_its_usage_and_nothing_unasked(server: tuple[str, Path]) -> None:
    asked = {"prompt": "a" * 300, "max_tokens": 3, "stream": True}
    *rest, last = chunks(post(server[0], "/v1/completions", **asked, stream_options={"include_usage": True}))
    assert last["longrope"]["tier_max_length"] == LONG
    unasked = chunks(post(server[0], "/v1/completions", **asked))
    assert not any("longrope" in chunk for chunk in [*rest, *unasked])


@pytest.mark.parametrize(
    ("fields", "tier"),
    [
        ({}, 0),
        ({"longrope_tier": LONG}, 1),
        ({"longrope_tier": "1k"}, 1),
        ({"longrope_tier": WINDOW}, 0),
        ({"model": "tiny-1k"}, 1),
        ({"vllm_xargs": {"longrope_tier": LONG}}, 1),
        ({"longrope_policy": "prompt+max_tokens"}, 0),
        ({"longrope_policy": "prompt+max_tokens", "max_tokens": 250}, 1),
    ],
)
def test_a_request_can_ask_for_its_tier(fields: dict[str, Any], tier: int, server: tuple[str, Path]) -> None:
    told = complete(server[0], "a" * 20, **{"max_tokens": 4, **fields})["longrope"]
    assert (told["tier"], told["crossings"]) == (tier, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fields", [{"longrope_tier": "2k"}, {"longrope_policy": "always"}])
def test_a_request_for_a_tier_that_is_not_there_is_refused_with_those_that_are(
    fields: dict[str, Any], stream: bool, server: tuple[str, Path]
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        complete(server[0], "a" * 20, stream=stream, **fields)
    with caught.value as error:
        assert error.code == 400
        message = json.load(error)["error"]["message"]
    assert "1024 (1k), found '2k'" in message or "prompt+max_tokens, explicit, found 'always'" in message


@pytest.mark.parametrize("forged", [LONG, "x", ["x"]])
def test_no_client_reaches_past_the_fields(forged: Any, server: tuple[str, Path]) -> None:
    told = complete(server[0], "a" * 20, vllm_xargs={"longrope_start": forged})["longrope"]
    assert told["tier"] == 0


def test_a_beam_search_that_names_a_tier_is_refused(server: tuple[str, Path]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        complete(server[0], "a" * 20, longrope_tier="1k", use_beam_search=True, n=2)
    with caught.value as error:
        assert error.code == 400
        assert "beam search" in json.load(error)["error"]["message"]


def test_an_omitted_limit_never_forces_the_long_tier(server: tuple[str, Path]) -> None:
    # vLLM fills in all that is left of the window for chat, and its default for completions.
    fields = {"longrope_policy": "prompt+max_tokens", "ignore_eos": False, "stop": ["a", "b", "c", "d"]}
    message = [{"role": "user", "content": "x" * 20}]
    chat = json.loads(post(server[0], "/v1/chat/completions", messages=message, **fields))
    completion = json.loads(post(server[0], "/v1/completions", prompt="x" * (WINDOW - 4), **fields))
    assert chat["longrope"]["tier"] == 0 or chat["longrope"]["crossings"] == 1
    assert completion["longrope"]["tier"] == 0 or completion["longrope"]["crossings"] == 1
    with_limit = json.loads(post(server[0], "/v1/chat/completions", messages=message, **fields, max_tokens=600))
    assert (with_limit["longrope"]["tier"], with_limit["longrope"]["crossings"]) == (1, 0)


def test_metrics_count_by_tier(server: tuple[str, Path]) -> None:
    before = metrics(server[0])
    complete(server[0], "b" * 30)
    complete(server[0], "b" * (WINDOW - 6), 20)
    grown = {name: value - before[name] for name, value in metrics(server[0]).items() if value != before[name]}
    seconds = {name for name in grown if "seconds" in name}
    assert {name: grown[name] for name in grown.keys() - seconds} == {
        f'requests_total{{tier="{WINDOW}"}}': 1,
        f'prompt_tokens_total{{tier="{WINDOW}"}}': 30,
        f'generation_tokens_total{{tier="{WINDOW}"}}': 4,
        'requests_total{tier="1k"}': 1,
        'prompt_tokens_total{tier="1k"}': WINDOW - 6,
        'generation_tokens_total{tier="1k"}': 20,
        'crossings_total{tier="1k"}': 1,
        'reprefilled_tokens_total{tier="1k"}': WINDOW,
    }
    for tier in (str(WINDOW), "1k"):
        assert grown[f'time_to_first_token_seconds_count{{tier="{tier}"}}'] == 1


def metrics(url: str) -> dict[str, float]:
    """Our metrics by name and labels, without the prefix."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = [line.removeprefix("longrope_").rpartition(" ") for line in lines if line.startswith("longrope_")]
    return {name: float(value) for name, _, value in found if "_created" not in name and "_bucket" not in name}


def test_the_smoke_check_of_a_deployment_passes(server: tuple[str, Path]) -> None:
    run = smoke(server[0])
    assert run.code == 0, run.output
    assert run.lines["tiers"] == f"ok {WINDOW} | {LONG:,}"
    assert [run.lines[check].partition(":")[0] for check in ("short", "long", "crossing")] == [
        f"ok tier 0 ({WINDOW})",
        f"ok tier 1 ({LONG:,})",
        f"ok tier 1 ({LONG:,})",
    ]


def test_an_unknown_request_is_not_found(server: tuple[str, Path]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"{server[0]}/v1/requests/cmpl-of-nobody")
    with caught.value as error:
        assert error.code == 404


def test_a_prompt_past_the_longest_tier_is_refused_with_the_limit(server: tuple[str, Path]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        complete(server[0], "a" * (LONG + 1))
    with caught.value as error:
        assert error.code == 400
        assert str(LONG) in error.read().decode()


def test_sigterm_ends_the_server_cleanly_and_leaves_no_process(checkpoint: Path, factors: Path, tmp_path: Path) -> None:
    options = ["serve", str(checkpoint), "--factors", str(factors), *OPTIONS]
    log = tmp_path / "server.log"
    with running("longrope_vllm.cli.main", options, environment=ENVIRONMENT, log=log) as started:
        pass
    assert started.process.returncode == 0
    assert group_is_gone(started.process.pid, within=10)  # the server led a group of its own


def group_is_gone(group: int, *, within: float) -> bool:
    """True once no process of ``group`` is left; helpers of the interpreter may outlive its parent by moments."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
