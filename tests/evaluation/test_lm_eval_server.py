"""Oracle: the live model. The server is a ten-line stand-in that answers from the logits of the same checkpoint."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from longrope_vllm.errors import EvaluationError, ServerError
from longrope_vllm.evaluation.harness.benchmarks import Benchmarks
from longrope_vllm.evaluation.harness.bridge import Bridge
from longrope_vllm.evaluation.harness.models import LiveModel, ServerModel
from short_tasks import CHOICE, WRITE, write_tasks
from tiny_models import LONG, byte_tokenizer, tiny_llama

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


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
def serving(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that gives ``answer`` to each request; its address, and the requests."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, body = answer(asked[-1])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@torch.inference_mode()
def completion(model: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """What an OpenAI-compatible server says to one request for a greedy answer or for its own text's likelihoods."""
    (prompt,) = body["prompt"]
    made = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=body["max_tokens"],
        do_sample=False,
    )[0].tolist()
    text = "".join(chr(token) for token in made[len(prompt) :] if token != 2)
    for stop in body.get("stop", []):
        text = text.split(stop)[0]
    choice: dict[str, Any] = {"index": 0, "text": text}
    if body.get("echo"):
        rows = model(torch.tensor([made])).logits[0].log_softmax(-1)
        pairs = [(rows[place - 1, token].item(), rows[place - 1].max().item()) for place, token in enumerate(made)]
        choice["logprobs"] = {
            "token_logprobs": [None, *(mine for mine, _ in pairs[1:])],
            "top_logprobs": [None, *({"mine": mine, "best": best} for mine, best in pairs[1:])],
        }
    return 200, {"choices": [choice]}


def test_a_server_is_measured_as_a_live_model_is(model: Any, folder: Path, benchmarks: Benchmarks) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    live = Bridge(LiveModel(model, tokenizer, limit=LONG, rope_for=lambda _: nullcontext()), benchmarks)
    with serving(lambda body: completion(model, body)) as (url, asked):
        served = Bridge(ServerModel(url, "tiny", tokenizer=str(folder), limit=LONG), benchmarks)
        for name in (CHOICE, WRITE):
            here, there = live.measure(name, range(4)), served.measure(name, range(4))
            assert [(sample.values, sample.answer) for sample in here] == [
                (sample.values, sample.answer) for sample in there
            ]
    prompts = [body["prompt"][0] for body in asked]
    assert all(prompt[0] == 1 and prompt[1] != 1 for prompt in prompts)
    assert all(body["repetition_penalty"] == 1.0 and body["temperature"] == 0 for body in asked)
    assert "~" in asked[-1]["stop"]


def test_both_models_read_the_same_tokens(model: Any, folder: Path) -> None:
    from lm_eval.api.instance import Instance
    from transformers import AutoTokenizer

    live = LiveModel(model, AutoTokenizer.from_pretrained(folder), limit=LONG, rope_for=lambda _: nullcontext())
    server = ServerModel("http://127.0.0.1:9", "tiny", tokenizer=str(folder), limit=LONG)
    pairs = [("What? ", "this"), ("", "that"), (f"{chr(1)}templated", " so")]
    for pair in pairs:
        assert live._pair(*pair) == server._pair(*pair)
        assert live._pair(*pair)[0].count(1) == 1
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0, metadata=("t", 0, 1)) for pair in pairs
    ]
    # the likelihood of a text takes one generated token of a server
    assert [server.length(request) - live.length(request) for request in requests] == [1, 1, 1]
    assert live.length(requests[1]) == 1 + len("that")


def test_a_refusal_is_told_at_once_and_not_asked_again(folder: Path, benchmarks: Benchmarks) -> None:
    with serving(lambda _: (500, {"error": "out of blocks"})) as (url, asked):
        bridge = Bridge(ServerModel(url, "tiny", tokenizer=str(folder), limit=LONG), benchmarks)
        for name in (CHOICE, WRITE):
            asked.clear()
            with pytest.raises(ServerError, match=r"answer to \d+ tokens from .* found HTTP 500: .*out of blocks"):
                bridge.measure(name, [0])
            assert len(asked) == 1


def test_a_server_that_is_not_there_is_said_so(folder: Path, benchmarks: Benchmarks) -> None:
    bridge = Bridge(ServerModel("http://127.0.0.1:9", "tiny", tokenizer=str(folder), limit=LONG), benchmarks)
    with pytest.raises(ServerError, match=r"found none that answers .*is it running"):
        bridge.measure(CHOICE, [0])


def test_how_long_is_waited_grows_with_the_tokens(folder: Path, benchmarks: Benchmarks) -> None:
    def slow(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        time.sleep(0.5)
        return 200, {"choices": [{"index": 0, "text": "late"}]}

    with serving(slow) as (url, _):
        hasty = ServerModel(url, "tiny", tokenizer=str(folder), limit=LONG, seconds=0.05, seconds_per_token=0.001)
        with pytest.raises(ServerError, match=r"within 0 seconds, found none: allow more seconds for each token"):
            Bridge(hasty, benchmarks).measure(WRITE, [0])
        patient = ServerModel(url, "tiny", tokenizer=str(folder), limit=LONG, seconds=0.05, seconds_per_token=1.0)
        assert Bridge(patient, benchmarks).measure(WRITE, [0])[0].answer == "late"


def test_nothing_is_sent_when_a_request_does_not_fit(folder: Path, benchmarks: Benchmarks) -> None:
    with serving(lambda _: (200, {})) as (url, asked):
        bridge = Bridge(ServerModel(url, "tiny", tokenizer=str(folder), limit=50), benchmarks)
        with pytest.raises(EvaluationError, match=r"at most 50 tokens .* in sample 1 of tiny_choice"):
            bridge.measure(CHOICE, [0, 1])
    assert asked == []
