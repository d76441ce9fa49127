"""What the bridge to lm-eval refuses in one sentence: what does not fit, is not there, or takes too much memory."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.harness.benchmarks import Benchmarks
from longrope_vllm.evaluation.harness.bridge import Bridge, short_work
from longrope_vllm.evaluation.harness.models import LiveModel
from short_tasks import CHOICE, WRITE, write_tasks
from tiny_models import LONG, byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(byte_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Benchmarks:
    return Benchmarks(include_path=write_tasks(tmp_path_factory.mktemp("tasks")))


def own_rope(length: int) -> AbstractContextManager[None]:
    return nullcontext()


def unloaded() -> Any:
    raise AssertionError("planning needs no weights")


def test_too_little_memory_is_one_sentence(tokenizer: Any, benchmarks: Benchmarks) -> None:
    class Large:
        """Larger than any machine."""

        device = "cpu"
        generation_config = GenerationConfig()

        def __call__(self, tokens: torch.Tensor, **given: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    bridge = Bridge(LiveModel(Large, tokenizer, limit=LONG, rope_for=own_rope), benchmarks)
    for name in (CHOICE, WRITE):
        with pytest.raises(EvaluationError, match=r"Expected memory for one pass over \d+ tokens"):
            bridge.measure(name, [0])


@pytest.mark.parametrize(("name", "extra"), [(CHOICE, 0), (WRITE, 24)])
def test_what_does_not_fit_is_refused_before_anything_runs(
    name: str, extra: int, tokenizer: Any, benchmarks: Benchmarks
) -> None:
    bridge = Bridge(LiveModel(unloaded, tokenizer, limit=40, rope_for=own_rope), benchmarks)
    with pytest.raises(EvaluationError, match=r"at most 40 tokens .* found \d+ in sample 1 of .* cut off; raise"):
        bridge.measure(name, [0, 1])
    with pytest.raises(EvaluationError, match="in sample 1 of"):
        short_work(bridge, name, methods=["none"])
    assert bridge.tokens(name, [0]) > extra


def test_an_index_that_is_not_there_is_refused(tokenizer: Any, benchmarks: Benchmarks) -> None:
    bridge = Bridge(LiveModel(unloaded, tokenizer, limit=LONG, rope_for=own_rope), benchmarks)
    with pytest.raises(EvaluationError, match="from 0 to 11 of tiny_choice, found 12"):
        bridge.measure(CHOICE, [0, 12])
    assert bridge.measure(CHOICE, []) == []
