"""A server over HTTP: what is sent, what is read from its answers, and every way in which it may not be believed."""

from typing import Any

import pytest
import torch

from completions_site import Site, serving
from longrope_vllm.errors import ServerError
from longrope_vllm.evaluation.over_http import Server

TOKENS = torch.arange(10, 20)


def server(site: Site, **options: object) -> Server:
    return Server(site.url, label=None, **options)


def test_losses_and_answers_are_those_of_the_server() -> None:
    with serving(Site()) as site:
        subject = server(site)
        scored = subject.score(TOKENS, length=10)
        torch.testing.assert_close(scored.losses, TOKENS[1:] / 1000)
        assert subject.answer([1, 2, 3], max_tokens=7, length=10).text == " 3"
        subject.close()
    asked, answered = site.bodies
    assert asked["prompt"] == TOKENS.tolist()
    assert (asked["echo"], asked["max_tokens"], asked["temperature"]) == (True, 0, 0.0)
    assert (answered["prompt"], answered["max_tokens"]) == ([1, 2, 3], 7)
    assert "longrope_policy" not in answered
    assert (subject.label, subject.model) == ("tiny", "tiny")


def test_a_server_with_the_plugin_is_asked_for_the_tier_of_prompt_and_answer() -> None:
    with serving(Site(tiers=(256, 1024))) as site:
        subject = server(site)
        subject.answer([1, 2, 3], max_tokens=7, length=10)
        subject.score(TOKENS, length=10)
        subject.close()
    assert [body["longrope_policy"] for body in site.bodies] == ["prompt+max_tokens", "prompt"]
    assert subject.identity == "tiny served, up to 4096 tokens, tiers 256 rope256, 1024 rope1024"


def test_a_document_that_fills_the_server_is_scored_but_for_its_last_token() -> None:
    with serving(Site(limit=10)) as site:
        subject = server(site)
        subject.check(10)
        torch.testing.assert_close(subject.score(TOKENS, length=10).losses, TOKENS[1:9] / 1000)
        subject.close()


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(reads=7), "to read all 10 tokens of a prompt, found that it read 7: it truncates"),
        (Site(has_logprobs=False), "Expected log-probabilities of 10 prompt tokens from .*, found 0: it does not"),
        (Site(answers=0), "Expected a server at http://127.0.0.1:.*, found none that answers"),
    ],
)
def test_an_answer_that_cannot_be_believed_is_refused(site: Site, message: str) -> None:
    with serving(site):
        subject = server(site)
        with pytest.raises(ServerError, match=message):
            subject.score(TOKENS, length=10)
        subject.close()


def test_lengths_past_the_limit_of_the_server_are_refused_before_anything_is_sent() -> None:
    with serving(Site(limit=1000)) as site:
        subject = server(site)
        subject.check(1000)
        with pytest.raises(ServerError, match=r"up to the 1,000 tokens of .*, found 1,001"):
            subject.check(1001)
        subject.close()
    assert not site.bodies


def test_another_model_and_nobody_are_told() -> None:
    with serving(Site()) as site, pytest.raises(ServerError, match=r"Expected the model 'large' at .*, found tiny"):
        server(site, model="large")
    with serving(Site(content_type="text/html")) as site, pytest.raises(ServerError, match="check the URL"):
        server(site)
    with pytest.raises(ServerError, match="found none that answers"):
        Server("http://127.0.0.1:1", label=None)


def test_time_outs_grow_with_length_and_with_the_requests_in_front() -> None:
    with serving(Site()) as site:
        alone, crowded = server(site), server(site, concurrency=4)
        short, long = alone._limit(1000), alone._limit(100_000)
        assert short < 3 * 60 < 30 * 60 < long
        assert crowded._limit(100_000) > 3 * long
        alone.close()
        crowded.close()


def test_another_checkpoint_or_limit_under_the_same_name_is_another_identity() -> None:
    sites = [Site(limit=None), Site(), Site(limit=8192), Site(root="/a"), Site(root="/b"), Site(tiers=(256,))]
    found = []
    for site in sites:
        with serving(site):
            subject = server(site)
            found.append(subject.identity)
            subject.close()
    assert len(set(found)) == len(sites)
    assert found[0] == "tiny served, its own rope"
    assert found[3] == "tiny served, root /a, up to 4096 tokens, its own rope"


@pytest.mark.parametrize(
    ("site", "takes"),
    [
        (Site(version="0.11.2"), True),
        (Site(owner="sglang"), True),
        (Site(owner="openai"), False),
        (Site(instead={"/version": {"version": "latest"}}), False),
        (Site(instead={"/version": b"<html>"}), False),
    ],
)
def test_neutral_penalties_are_sent_to_servers_that_know_them(site: Site, takes: bool) -> None:
    with serving(site):
        subject = server(site)
        subject.answer([1, 2, 3], max_tokens=7, length=10)
        subject.score(TOKENS, length=10)
        subject.close()
    for body in site.bodies:
        assert (body["temperature"], body["frequency_penalty"], body["presence_penalty"]) == (0.0, 0.0, 0.0)
        assert body.get("repetition_penalty") == (1.0 if takes else None)


MODELS, TIERS, COMPLETIONS = "/v1/models", "/v1/longrope", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "document", "message"),
    [
        (MODELS, {}, "Expected a list under data in the answer of .*/v1/models, found None: .* check the URL"),
        (MODELS, [], r"Expected a list under data .*, found \[\]"),
        (MODELS, {"data": []}, "at least one entry under data"),
        (MODELS, {"data": ["tiny"]}, "a text under id .*, found 'tiny'"),
        (MODELS, {"data": [{}]}, "a text under id .*, found None"),
        (
            MODELS,
            {"data": [{"id": "tiny", "max_model_len": "4k"}]},
            "a whole number under max_model_len .*, found '4k'",
        ),
        (MODELS, b"{", "Expected JSON from .*/v1/models, found something else"),
        (TIERS, {"error": 1}, "a list under tiers .*/v1/longrope, found None"),
        (TIERS, {"tiers": [{"max_length": 1.5}]}, "a whole number under max_length .*, found 1.5"),
    ],
)
def test_a_server_that_describes_itself_in_another_shape_is_one_sentence(
    path: str, document: Any, message: str
) -> None:
    with serving(Site(instead={path: document})) as site, pytest.raises(ServerError, match=message):
        server(site)


def reply(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"text": "", **choice}], "usage": {"prompt_tokens": 10}}


def logprobs(*values: Any, **more: Any) -> dict[str, Any]:
    return reply(logprobs={"token_logprobs": [None, *values, *[-1.0] * (9 - len(values))], **more})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], r"a list under choices in the answer of .*/v1/completions, found \[\]: it is not an OpenAI"),
        ({"choices": []}, "at least one entry under choices"),
        ({"choices": ["text"]}, "found 'text'"),
        (reply(text=None), "a text under text .*, found None"),
        ({**reply(), "usage": [10]}, r"an object under usage .*, found \[10\]"),
        ({"choices": [{"text": ""}]}, "found that it read None"),
        (reply(logprobs=[]), r"an object under logprobs .*, found \[\]"),
        (reply(logprobs={}), "Expected log-probabilities of 10 prompt tokens from .*, found 0"),
        (logprobs(-1.0, None), "log-probabilities of 10 prompt tokens from .*, found 8"),
        (logprobs("-1.0"), "numbers as log-probabilities .*, found '-1.0'"),
        (logprobs(0.5), "finite log-probabilities of at most 0 from .*, found 0.5"),
        (logprobs(float("nan")), "finite log-probabilities of at most 0 from .*, found nan"),
        (logprobs(float("-inf")), "finite log-probabilities of at most 0 from .*, found -inf"),
        (logprobs(top_logprobs=[None, [-1.0]]), r"for each token under top_logprobs .*, found \[-1.0\]"),
        ({**logprobs(), "longrope": {}}, "a whole number under tier_max_length .*, found None"),
        (b"[1,", "Expected JSON from .*/v1/completions"),
        (b'"' + b"x" * 200 + b'"', r"under choices .*, found '[x]+\.\.\.: it is not"),
    ],
)
def test_an_answer_of_another_shape_is_one_sentence(document: Any, message: str) -> None:
    with serving(Site(instead={COMPLETIONS: document})) as site:
        subject = server(site)
        with pytest.raises(ServerError, match=message):
            subject.score(TOKENS, length=10)
        subject.close()


def test_a_log_probability_just_above_nothing_is_rounding() -> None:
    with serving(Site(instead={COMPLETIONS: logprobs(5e-4)})) as site:
        subject = server(site)
        torch.testing.assert_close(subject.score(TOKENS, length=10).losses, torch.tensor([-5e-4] + [1.0] * 8))
        subject.close()
