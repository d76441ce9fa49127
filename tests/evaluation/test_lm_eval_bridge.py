"""Oracles: full logits and ``generate`` of transformers, lm-eval's own ``evaluate``, and the tier that is asked for."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from longrope_vllm import Factors, Geometry
from longrope_vllm.evaluation.harness.benchmarks import Benchmarks
from longrope_vllm.evaluation.harness.bridge import Bridge, short_work
from longrope_vllm.evaluation.harness.models import LiveModel
from longrope_vllm.evaluation.records import Record
from longrope_vllm.hf import fixed_rope
from short_tasks import CHOICE, FEWSHOT, WRITE, write_tasks
from tiny_models import LONG, WINDOW, byte_tokenizer, tiny_llama

RopeFor = Callable[[int], AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def benchmarks(tasks: Path) -> Benchmarks:
    return Benchmarks(include_path=tasks)


@pytest.fixture(scope="module")
def factors(folder: Path) -> Factors:
    return Factors.from_baseline("yarn", Geometry.from_checkpoint(folder), LONG)


BridgeWith = Callable[[RopeFor], Bridge]


@pytest.fixture
def bridge_with(model: Any, tokenizer: Any, benchmarks: Benchmarks) -> BridgeWith:
    return lambda rope_for: Bridge(LiveModel(lambda: model, tokenizer, limit=LONG, rope_for=rope_for), benchmarks)


def own_rope(length: int) -> AbstractContextManager[None]:
    return nullcontext()


def documents(tasks: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tasks.parent / f"{name}.jsonl").read_text().splitlines()]


def log_likelihood(model: Any, context: str, continuation: str) -> float:
    """From the logits of all tokens, one token a character."""
    tokens = torch.tensor([[ord(letter) for letter in context + continuation]])
    with torch.inference_mode():
        rows = model(tokens).logits[0].log_softmax(-1)
    return sum(rows[place - 1, tokens[0, place]].item() for place in range(len(context), tokens.shape[1]))


def test_accuracy_is_what_the_full_logits_say(bridge_with: BridgeWith, model: Any, tasks: Path) -> None:
    samples = bridge_with(own_rope).measure(CHOICE, range(8))
    assert {sample.values["acc"] for sample in samples} == {0.0, 1.0}
    for sample, document in zip(samples, documents(tasks, CHOICE), strict=False):
        found = [log_likelihood(model, document["question"], f" {choice}") for choice in document["choices"]]
        best = document["choices"][found.index(max(found))]
        assert sample.answer == best
        assert sample.values["acc"] == float(best == document["choices"][document["gold"]])
        assert sample.expected == document["choices"][document["gold"]]
        longest = max(len(choice) for choice in document["choices"])
        assert sample.length == len(document["question"]) + 1 + longest


@pytest.mark.parametrize("name", [CHOICE, WRITE])
def test_values_are_those_of_lm_evals_own_run(name: str, bridge_with: BridgeWith, tasks: Path, model: Any) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    tokenizer.add_special_tokens({"pad_token": chr(0), "eos_token": chr(2)})
    results = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, max_length=LONG),
        tasks=[name],
        samples={name: [1, 3, 4]},
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    expected = {each["doc_id"]: each for each in results["samples"][name]}
    for sample in bridge_with(own_rope).measure(name, [4, 1, 3]):
        theirs = expected[sample.index]
        assert {metric: float(theirs[metric]) for metric in theirs["metrics"]} == sample.values


def test_an_answer_is_what_transformers_generates(bridge_with: BridgeWith, model: Any, tasks: Path) -> None:
    samples = bridge_with(own_rope).measure(WRITE, range(4))
    for sample, document in zip(samples, documents(tasks, WRITE), strict=False):
        prompt = torch.tensor([[ord(letter) for letter in document["question"]]])
        made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False)
        text = "".join(chr(token) for token in made[0, prompt.shape[1] :].tolist() if token != 2)
        assert sample.answer == text.split("~")[0]
        assert sample.length == prompt.shape[1] + 24
        assert sample.values == {"exact_match": float(sample.answer == document["gold"])}


def test_an_answer_ends_before_the_first_stop(bridge_with: BridgeWith, model: Any, tokenizer: Any, tasks: Path) -> None:
    whole = bridge_with(own_rope).measure(WRITE, [0])[0].answer
    live = LiveModel(lambda: model, tokenizer, limit=LONG, rope_for=own_rope)
    bridge = Bridge(live, Benchmarks(include_path=tasks))
    bridge.load(WRITE).task.config.generation_kwargs["until"] = ["no such text", whole[5:7]]
    assert bridge.measure(WRITE, [0])[0].answer == whole.split(whole[5:7])[0]


def test_each_request_under_its_own_tier_keeps_short_ones_to_the_last_bit(
    bridge_with: BridgeWith, model: Any, factors: Factors
) -> None:
    asked: list[int] = []
    own_factors = replace(factors, tiers=factors.tiers[:1])

    def own(length: int) -> AbstractContextManager[Any]:
        return fixed_rope(model, own_factors, length=length)

    def tiers(length: int) -> AbstractContextManager[Any]:
        asked.append(length)
        return fixed_rope(model, factors, length=length)

    def long_for_all(length: int) -> AbstractContextManager[Any]:
        return fixed_rope(model, factors, length=factors.max_length)

    untouched, unextended, each, long = (bridge_with(rope) for rope in (own_rope, own, tiers, long_for_all))
    scores = {bridge: likelihoods(bridge) for bridge in (untouched, unextended, each, long)}
    assert max(asked) <= WINDOW
    assert scores[each] == scores[unextended]
    assert all(one != other for one, other in zip(scores[each], scores[long], strict=True))
    # transformers turns by float32 angles, our tables by float64 ones
    assert scores[each] == pytest.approx(scores[untouched], abs=1e-4)
    written = {bridge: bridge.measure(WRITE, range(4)) for bridge in (untouched, unextended, each, long)}
    assert written[untouched] == written[unextended] == written[each] != written[long]


def requests(bridge: Bridge, name: str, index: int) -> Sequence[Any]:
    """As lm-eval makes them of one document."""
    return bridge._asked(name, [index])[0].requests


def likelihoods(bridge: Bridge) -> list[float]:
    """Of every choice of some documents, as the model gives them."""
    asked = [request for index in range(4) for request in requests(bridge, CHOICE, index)]
    return [likelihood for likelihood, _ in bridge._lm.loglikelihood(asked, disable_tqdm=True)]  # type: ignore[attr-defined]


def test_pieces_give_what_one_run_gives(bridge_with: BridgeWith) -> None:
    bridge = bridge_with(own_rope)
    whole = {sample.index: sample for sample in bridge.measure(FEWSHOT, range(8))}
    assert len({requests(bridge, FEWSHOT, index)[0].args[0][:40] for index in range(8)}) > 1
    pieces = [sample for part in ([5, 2], [7], [0, 1, 3], [4, 6]) for sample in bridge.measure(FEWSHOT, part)]
    assert {sample.index: sample for sample in pieces} == whole
    works = short_work(bridge, FEWSHOT, methods=["none"], indices=range(7), piece=3)
    assert [len(work.keys) for work in works] == [3, 3, 1]
    records = [record for work in works for record in work.measure()]
    assert [record.key for record in records] == [key for work in works for key in work.keys]
    assert [unclocked(record) for record in records] == [
        Record(
            key=("short", "none", 0, FEWSHOT, str(index)),  # type: ignore[arg-type]
            values=whole[index].values,
            expected=whole[index].expected,
            answer=whole[index].answer,
            notes={"tokens": str(whole[index].length)},
        )
        for index in range(7)
    ]
    assert works[0].title == f"short none {FEWSHOT} 0-2"
    assert works[0].tokens == bridge.tokens(FEWSHOT, range(3)) // 3
    assert works[0].passes == 3


def unclocked(record: Record) -> Record:
    assert record.seconds > 0
    return replace(record, seconds=0.0)


def test_a_size_is_the_number_of_documents(bridge_with: BridgeWith) -> None:
    assert [bridge_with(own_rope).size(name) for name in (CHOICE, WRITE)] == [12, 6]


def test_a_chat_template_is_applied_when_it_is_given_and_only_then(
    model: Any, tokenizer: Any, benchmarks: Benchmarks, tasks: Path
) -> None:
    seen: list[Sequence[dict[str, str]]] = []

    def template(messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str:
        seen.append(messages)
        return f"<{messages[-1]['content']}>"

    live = LiveModel(lambda: model, tokenizer, limit=LONG, rope_for=own_rope)
    question = documents(tasks, WRITE)[0]["question"]
    plain = Bridge(live, benchmarks)
    assert requests(plain, WRITE, 0)[0].args[0] == question
    assert not seen
    chat = Bridge(live, benchmarks, chat_template=template)
    assert requests(chat, WRITE, 0)[0].args[0] == f"<{question}>"
    assert [message["role"] for message in seen[0]] == ["user"]
