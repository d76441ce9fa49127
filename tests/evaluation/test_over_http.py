"""A server over HTTP: what is sent, what is read from its answers, and every way in which it may not be believed."""

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
    assert subject.identity == "tiny served, tiers 256 rope256, 1024 rope1024"


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
