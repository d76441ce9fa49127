"""A request that outgrows its tier, under everything a request can ask for, against one pass of transformers.

Speculation, asynchronous scheduling and tensor parallelism: ``test_exactness``; preemption: ``test_preemption``.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine_jobs import LONGROPE, Results, RunEngine, prompt, request
from longrope_vllm import Factors, Geometry, write_rope
from one_pass import TOLERANCE, OnePass
from tiny_adapter import merge, tiny_adapter
from tiny_models import LONG, WINDOW, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

MIDDLE = WINDOW + 40
"""Second boundary: an answer of 70 tokens crosses both."""
ENGINE = {"skip_tokenizer_init": False, "max_num_batched_tokens": 96}
LETTERS = "[a-f]{70}"
REQUESTS = [
    request("plain", prompt(WINDOW - 10), max_tokens=70),
    request("two choices", prompt(WINDOW - 20), max_tokens=70) | {"params": {"n": 2, "temperature": 1.0}},
    request("prompt log-probabilities", prompt(WINDOW - 5), max_tokens=70) | {"params": {"prompt_logprobs": 2}},
    request("long prompt log-probabilities", prompt(MIDDLE + 60), max_tokens=8) | {"params": {"prompt_logprobs": 2}},
    request("structured", prompt(WINDOW - 12), max_tokens=70, arrive=1) | {"regex": LETTERS},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def factors(base: Path) -> Factors:
    return Factors.from_baselines([(MIDDLE, "yarn"), (LONG, "yarn")], Geometry.from_checkpoint(base))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, factors: Factors) -> Path:
    folder = byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("tiers")))
    write_rope(folder, factors)
    return folder


@pytest.fixture(scope="module")
def oracle(base: Path, factors: Factors) -> OnePass:
    return OnePass.from_checkpoint(base, factors)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param({}, id="synchronous"),
        pytest.param({"async_scheduling": True}, id="asynchronous"),
        pytest.param({"v2_runner": True, "async_scheduling": True}, id="V2 runner asynchronous"),
    ],
)
def served(request: pytest.FixtureRequest, run_engine: RunEngine, checkpoint: Path) -> Results:
    asked = [entry for entry in REQUESTS if not ("regex" in entry and request.param.get("v2_runner"))]
    return run_engine(LONGROPE, checkpoint, asked, **ENGINE, **request.param)


def by_name(name: str) -> dict[str, Any]:
    """The request, as the oracle takes it: started by its prompt."""
    return next(entry for entry in REQUESTS if entry["id"] == name) | {"start": 0}


def test_both_boundaries_are_crossed_exactly(served: Results, oracle: OnePass) -> None:
    verdict = oracle.verdict(by_name("plain"), served["plain"])
    assert verdict.tiers == (WINDOW, MIDDLE, LONG)
    assert verdict.is_right, verdict
    assert served["plain"]["status"]["crossings"] == 2


def test_each_of_several_choices_crosses_on_its_own(served: Results, oracle: OnePass) -> None:
    found = served["two choices"]
    assert len(found["choices"]) == 2
    for choice in found["choices"]:
        assert oracle.verdict(by_name("two choices"), choice).difference < TOLERANCE  # sampled, not the likeliest
    assert found["status"]["crossings"] == 4  # both boundaries, each choice


@pytest.mark.parametrize("name", ["prompt log-probabilities", "long prompt log-probabilities"])
def test_prompt_log_probabilities_are_told_once_and_in_the_tier_of_the_prompt(
    name: str, served: Results, oracle: OnePass
) -> None:
    tokens = by_name(name)["prompt"]
    assert oracle.verdict(by_name(name), served[name]).is_right
    first, *rest = served[name]["prompt"]
    assert (first, len(rest)) == (None, len(tokens) - 1)
    expected = oracle.prompt_log_probabilities(tokens)
    for row, stated in zip(expected, rest, strict=True):
        assert all(abs(value - float(row[int(token)])) < TOLERANCE for token, value in stated.items())


def test_structured_output_goes_on_where_it_was(served: Results, oracle: OnePass) -> None:
    if "structured" not in served:
        pytest.skip("Triton's interpreter refuses the kernel of vLLM 0.32 that applies a grammar")
    found = served["structured"]
    assert re.fullmatch(LETTERS, "".join(map(chr, found["tokens"])))
    assert found["status"]["crossings"] == 2
    prompt_tokens = by_name("structured")["prompt"]
    lengths = range(len(prompt_tokens), len(prompt_tokens) + len(found["tokens"]))
    rows = oracle.log_probabilities(prompt_tokens + found["tokens"], lengths, start=0)
    letters = [ord(letter) for letter in "abcdef"]
    allowed = rows[:, letters].log_softmax(dim=-1)  # the grammar leaves nothing else to sample from
    for row, token, stated in zip(allowed, found["tokens"], found["top"], strict=True):
        by_token = dict(zip(letters, row.tolist(), strict=True))
        assert all(abs(value - by_token[int(name)]) < TOLERANCE for name, value in stated.items())
        assert max(by_token.values()) - by_token[token] < 2 * TOLERANCE


def test_adapted_requests_keep_their_adapter(
    checkpoint: Path, base: Path, factors: Factors, oracle: OnePass, run_engine: RunEngine, tmp_path: Path
) -> None:
    # Every request has it: on the CPU vLLM 0.32, also without the plugin, lends it to a request beside that has none.
    adapter, merged = tiny_adapter(tmp_path / "adapter", base), tiny_llama(tmp_path / "merged")
    merge(merged, adapter)
    adapted = OnePass.from_checkpoint(merged, factors)
    asked = [by_name("plain"), request("long", prompt(MIDDLE + 9), max_tokens=8) | {"start": 0}]
    requests = [entry | {"lora": str(adapter)} for entry in asked]
    found = run_engine(LONGROPE, checkpoint, requests, **ENGINE, enable_lora=True, max_lora_rank=8)
    for entry in asked:
        assert adapted.verdict(entry, found[entry["id"]]).is_right
        assert not oracle.verdict(entry, found[entry["id"]]).is_right  # the adapter changes the answer
    assert found["plain"]["status"]["crossings"] == 2


def test_a_streaming_session_is_in_the_longest_tier_from_its_first_token(
    run_job: Callable[..., Any], checkpoint: Path, oracle: OnePass
) -> None:
    # It may grow past a boundary while it waits for input, when no step of the scheduler sees it.
    parts = [prompt(40, seed=7), prompt(WINDOW - 30, seed=8), prompt(MIDDLE, seed=9)]
    beside = [prompt(WINDOW - 3, seed=5), prompt(30, seed=6)]
    job = {"parts": parts, "max_tokens": 6, "beside": beside}
    found = run_job("streaming_run.py", LONGROPE, checkpoint, [], job=job)
    tokens: list[int] = []
    assert len(found["turns"]) == len(parts)
    for part, turn in zip(parts, found["turns"], strict=True):
        tokens += part
        verdict = oracle.verdict({"id": "session", "prompt": tokens, "start": LONG}, turn)
        assert verdict.is_right, verdict
        tokens += turn["tokens"][:-1]  # vLLM drops the token that was sampled last, which it has not read
    for name, answer in zip(beside, found["beside"], strict=True):
        assert oracle.verdict({"id": "beside", "prompt": name, "start": 0}, answer).is_right
