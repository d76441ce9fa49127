"""Oracle: the live model. The server is a ten-line stand-in that answers from the logits of the same checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from completions_site import Site, serving
from longrope_vllm.errors import EvaluationError, ServerError
from longrope_vllm.evaluation.harness.benchmarks import Benchmarks
from longrope_vllm.evaluation.harness.bridge import Bridge
from longrope_vllm.evaluation.harness.models import LiveModel, ServerModel
from longrope_vllm.evaluation.over_http import Server
from short_tasks import CHOICE, WRITE, write_tasks
from tiny_models import LONG, byte_tokenizer, tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_beginning(byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("model"))))


def with_beginning(folder: Path) -> Path:
    """The tokenizer of ``folder`` begins every text with token 1, as that of Llama does."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"bos_token": chr(1), "eos_token": chr(2)})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{chr(1)} $A", special_tokens=[(chr(1), 1)])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Benchmarks:
    return Benchmarks(include_path=write_tasks(tmp_path_factory.mktemp("tasks")))


@contextmanager
def connected(site: Site, folder: Path) -> Iterator[ServerModel]:
    """What lm-eval is given of ``site``, whose tokenizer is in ``folder``."""
    with serving(site):
        server = Server(site.url, label=None)
        server.tokenizer = str(folder)
        yield server.harness_model()  # type: ignore[misc]
        server.close()


@torch.inference_mode()
def completion(model: Any, body: dict[str, Any]) -> dict[str, Any]:
    """What an OpenAI-compatible server says to one request for a greedy answer or for its own text's likelihoods."""
    made = prompt = body["prompt"]
    if body["max_tokens"]:
        made = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=body["max_tokens"],
            do_sample=False,
        )[0].tolist()
    text = "".join(chr(token) for token in made[len(prompt) :] if token != 2)
    for stop in body.get("stop", []):
        text = text.split(stop)[0]
    choice: dict[str, Any] = {"text": text}
    if body.get("echo"):
        rows = model(torch.tensor([made])).logits[0].log_softmax(-1)
        pairs = [(rows[place - 1, token].item(), rows[place - 1].max().item()) for place, token in enumerate(made)]
        choice["logprobs"] = {
            "token_logprobs": [None, *(mine for mine, _ in pairs[1:])],
            "top_logprobs": [None, *({"mine": mine, "best": best} for mine, best in pairs[1:])],
        }
    return {"choices": [choice], "usage": {"prompt_tokens": len(prompt)}}


def test_a_server_is_measured_as_a_live_model_is(model: Any, folder: Path, benchmarks: Benchmarks) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    live = Bridge(LiveModel(lambda: model, tokenizer, limit=LONG, rope_for=lambda _: nullcontext()), benchmarks)
    site = Site(completion=lambda body: completion(model, body), version="0.11.2")
    with connected(site, folder) as lm:
        served = Bridge(lm, benchmarks)
        for name in (CHOICE, WRITE):
            here, there = live.measure(name, range(4)), served.measure(name, range(4))
            assert [(sample.values, sample.answer) for sample in here] == [
                (sample.values, sample.answer) for sample in there
            ]
    prompts = [body["prompt"] for body in site.bodies]
    assert all(prompt[0] == 1 and prompt[1] != 1 for prompt in prompts)
    assert all(body["repetition_penalty"] == 1.0 and body["temperature"] == 0 for body in site.bodies)
    assert "~" in site.bodies[-1]["stop"]


def test_whether_a_continuation_is_the_greedy_one_is_what_the_live_model_says(model: Any, folder: Path) -> None:
    from transformers import AutoTokenizer

    live = LiveModel(lambda: model, AutoTokenizer.from_pretrained(folder), limit=LONG, rope_for=lambda _: nullcontext())
    context = "Which is it? "
    with torch.inference_mode():
        best = chr(model(torch.tensor([live.tok_encode(context.rstrip() + " ")])).logits[0, -1].argmax())
    pairs = [(context.rstrip() + " ", letter) for letter in (best, "a" if best != "a" else "b")]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0, metadata=("t", 0, 1)) for pair in pairs
    ]
    with connected(Site(completion=lambda body: completion(model, body)), folder) as lm:
        for mine, theirs in zip(live.loglikelihood(requests), lm.loglikelihood(requests), strict=True):
            assert mine[0] == pytest.approx(theirs[0], abs=1e-4)
            assert mine[1] == theirs[1]


def test_both_models_read_the_same_tokens(model: Any, folder: Path) -> None:
    from transformers import AutoTokenizer

    live = LiveModel(lambda: model, AutoTokenizer.from_pretrained(folder), limit=LONG, rope_for=lambda _: nullcontext())
    pairs = [("What? ", "this"), ("", "that"), (f"{chr(1)}templated", " so")]
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0, metadata=("t", 0, 1)) for pair in pairs
    ]
    with connected(Site(), folder) as server:
        for pair in pairs:
            assert live._pair(*pair) == server._pair(*pair)
            assert live._pair(*pair)[0].count(1) == 1
        # the likelihood of a text takes one generated token of a server
        assert [server.length(request) - live.length(request) for request in requests] == [1, 1, 1]
    assert live.length(requests[1]) == 1 + len("that")


def test_a_refusal_is_told_at_once_and_not_asked_again(folder: Path, benchmarks: Benchmarks) -> None:
    site = Site(fails=500, instead={"/v1/completions": {"error": {"message": "out of blocks"}}})
    with connected(site, folder) as lm:
        for name in (CHOICE, WRITE):
            site.bodies.clear()
            with pytest.raises(ServerError, match=r"answer from .*/v1/completions, found HTTP 500: out of blocks"):
                Bridge(lm, benchmarks).measure(name, [0])
            assert len(site.bodies) == 1


def test_a_server_that_is_gone_is_said_so(folder: Path, benchmarks: Benchmarks) -> None:
    with connected(Site(answers=0), folder) as lm, pytest.raises(ServerError, match=r"answers .*is it running"):
        Bridge(lm, benchmarks).measure(CHOICE, [0])


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(reads=7), r"to read all \d+ tokens of a prompt, found that it read 7"),
        (Site(has_logprobs=False), r"log-probabilities of \d+ prompt tokens from .*, found 0"),
        (Site(has_tops=False), "the likeliest token at each place from .*, found none beside"),
        (Site(instead={"/v1/completions": {"choices": []}}), "at least one entry under choices"),
    ],
)
def test_an_answer_that_cannot_be_believed_is_refused(
    site: Site, message: str, folder: Path, benchmarks: Benchmarks
) -> None:
    with connected(site, folder) as lm, pytest.raises(ServerError, match=message):
        Bridge(lm, benchmarks).measure(CHOICE, [0])


def test_a_server_with_the_plugin_is_asked_for_the_tier_that_a_live_model_takes(
    folder: Path, benchmarks: Benchmarks
) -> None:
    site = Site(tiers=(256, 1024))
    with connected(site, folder) as lm:
        Bridge(lm, benchmarks).measure(CHOICE, [0])
        assert {body["longrope_policy"] for body in site.bodies} == {"prompt"}
        site.bodies.clear()
        Bridge(lm, benchmarks).measure(WRITE, [0])
        assert {body["longrope_policy"] for body in site.bodies} == {"prompt+max_tokens"}


def test_nothing_is_sent_when_a_request_does_not_fit(folder: Path, benchmarks: Benchmarks) -> None:
    site = Site(limit=50)
    with (
        connected(site, folder) as lm,
        pytest.raises(EvaluationError, match=r"at most 50 tokens .* in sample 1 of tiny_choice"),
    ):
        Bridge(lm, benchmarks).measure(CHOICE, [0, 1])
    assert site.bodies == []
