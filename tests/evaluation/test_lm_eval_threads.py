"""Oracle: one piece of work after the other. Few-shot examples are drawn from a state that all threads share."""

import random
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from transformers import AutoTokenizer

from longrope_vllm.evaluation.harness.benchmarks import Benchmarks
from longrope_vllm.evaluation.harness.bridge import Bridge, short_work
from longrope_vllm.evaluation.harness.models import Bounded
from longrope_vllm.evaluation.work import Work
from short_tasks import CHOICE, FEWSHOT, WRITE, write_tasks
from tiny_models import LONG, byte_tokenizer, tiny_llama


class Arithmetic(Bounded):
    """Answers by a hash of what it reads, and looks where the process prints meanwhile."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.limit = LONG
        self.printed_to: set[int] = set()

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:  # type: ignore[override]
        return self.tok_encode(context), self.tok_encode(continuation)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.printed_to |= {id(sys.stdout), id(sys.stderr)}
        return [(-float(crc32("".join(request.args).encode()) % 997), False) for request in requests]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        return [str(crc32(request.args[0].encode()) % 7) for request in requests]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def many_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def pieces(lm: Arithmetic, tasks: Path) -> list[Work]:
    bridge = Bridge(lm, Benchmarks(include_path=tasks))
    return [work for name in (FEWSHOT, CHOICE, WRITE) for work in short_work(bridge, name, methods=["none"], piece=1)]


def measured(work: Work) -> list[Any]:
    return [(record.key, record.values, record.answer, record.expected, record.notes) for record in work.measure()]


@pytest.mark.usefixtures("many_switches")
def test_eight_threads_measure_what_one_does(tokenizer: Any, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path)
    alone = [measured(work) for work in pieces(Arithmetic(tokenizer), tasks)]
    lm = Arithmetic(tokenizer)
    shuffled = pieces(lm, tasks) * 5
    random.Random(0).shuffle(shuffled)
    with ThreadPool(8) as pool:
        found = pool.map(measured, shuffled, chunksize=1)
    by_key = {records[0][0]: records for records in found}
    assert [by_key[records[0][0]] for records in alone] == alone
    assert all(records == by_key[records[0][0]] for records in found)
    assert lm.printed_to == {id(sys.stdout), id(sys.stderr)}
