"""Short benchmarks and lm-eval's RULER, sample by sample, as records that an interrupted evaluation can go on from.

In: a model of ``models`` and some of the ``benchmarks``. Out: for each document those metrics of
lm-eval that are averaged over documents. lm-eval builds the requests and scores the answers. Its ``evaluate`` is not
used: it numbers chosen documents by their order, draws the few-shot examples of a document from a state that the
documents before it have moved, and reads the whole data set anew for each call. Here each document stands on its own,
so that pieces give what one run gives.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.harness.benchmarks import Benchmark, Benchmarks
from longrope_vllm.evaluation.harness.models import Bounded
from longrope_vllm.evaluation.harness.requests import ChatTemplate, requests_of, unanswered
from longrope_vllm.evaluation.records import Key, Record
from longrope_vllm.evaluation.work import Work
from longrope_vllm.extras import require

PIECE = 50
"""Documents of one piece of work."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measured document."""

    index: int
    values: Mapping[str, float]
    """Metrics by lm-eval's names (``acc``, ``exact_match,strict-match``); ``score`` for RULER."""
    length: int
    """Tokens of its longest request, with the room for the answer."""
    answer: str
    expected: str


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What one document asks, and the tokens of each request."""

    index: int
    requests: tuple[Any, ...]
    lengths: tuple[int, ...]


class Bridge:
    """Measures one model on benchmarks of lm-eval."""

    def __init__(self, lm: Bounded, benchmarks: Benchmarks, *, chat_template: ChatTemplate | None = None) -> None:
        """``lm`` is a ``LiveModel`` or a ``ServerModel``. Without ``chat_template`` prompts are plain text."""
        self._lm = lm
        self._benchmarks = benchmarks
        self._chat_template = chat_template
        self._known: dict[tuple[str, int], _Asked] = {}

    def load(self, name: str) -> Benchmark:
        """The benchmark ``name``. Raises ``EvaluationError`` when there is none, or when it cannot be measured."""
        return self._benchmarks.load(name)

    def size(self, name: str) -> int:
        """Documents of the benchmark ``name``."""
        return len(self.load(name).documents)

    def tokens(self, name: str, indices: Sequence[int]) -> int:
        """Tokens that ``measure`` reads and may write. Raises ``EvaluationError`` for a request that is too long."""
        return sum(length for asked in self._asked(name, indices) for length in asked.lengths)

    def lengths(self, name: str, indices: Sequence[int]) -> frozenset[int]:
        """The different lengths of the requests of these documents, in tokens. Raises as ``tokens`` does."""
        return frozenset(length for asked in self._asked(name, indices) for length in asked.lengths)

    def measure(self, name: str, indices: Sequence[int]) -> list[Sample]:
        """Ask the documents ``indices`` of the benchmark ``name``; several threads may do so.

        Raises ``EvaluationError`` before anything runs when a request is too long, and ``ServerError``.
        """
        asked = self._asked(name, indices)
        answered = [unanswered(each.requests) for each in asked]
        requests = [request for each in answered for request in each]
        for kind, group in groupby(requests, key=lambda request: request.request_type):
            batch = list(group)
            for request, response in zip(batch, getattr(self._lm, kind)(batch, disable_tqdm=True), strict=True):
                request.resps.extend([response] * request.repeats)  # greedy: a second time gives the same
        benchmark = self.load(name)
        with benchmark.lock:
            benchmark.task._instances = requests  # what its filters read; lm-eval sets it in build_all_requests
            if requests:
                benchmark.task.apply_filters()
            return [self._sample(benchmark, one, each) for one, each in zip(asked, answered, strict=True)]

    def _asked(self, name: str, indices: Sequence[int]) -> list[_Asked]:
        benchmark = self.load(name)
        return [self._asked_once(benchmark, index) for index in indices]

    def _asked_once(self, benchmark: Benchmark, index: int) -> _Asked:
        if not 0 <= index < len(benchmark.documents):
            raise EvaluationError(
                f"Expected samples from 0 to {len(benchmark.documents) - 1} of {benchmark.name}, found {index}."
            )
        key = (benchmark.name, index)
        if key not in self._known:
            requests = requests_of(benchmark, index, seed=self._benchmarks.seed, chat_template=self._chat_template)
            lengths = tuple(map(self._lm.check, requests))
            self._known[key] = _Asked(index=index, requests=requests, lengths=lengths)
        return self._known[key]

    def _sample(self, benchmark: Benchmark, asked: _Asked, requests: Sequence[Any]) -> Sample:
        task, document = benchmark.task, benchmark.documents[asked.index]
        values: dict[str, float] = {}
        for name in requests[0].filtered_resps:
            scored = task.process_results(document, [request.filtered_resps[name] for request in requests])
            suffix = "" if name == "none" else f",{name}"
            values |= {metric + suffix: value for metric, value in _averaged(benchmark, document, scored).items()}
        if not values:
            raise EvaluationError(
                f"Expected a metric that is averaged over documents in {benchmark.name}, found none: leave it out."
            )
        choices = task.doc_to_choice(document) if getattr(task.config, "doc_to_choice", None) is not None else None
        return Sample(
            index=asked.index,
            values=values,
            length=max(asked.lengths),
            answer=_answer(requests, choices),
            expected=_expected(task, document, choices),
        )


def short_work(
    bridge: Bridge, name: str, *, methods: Sequence[str], indices: Sequence[int] | None = None, piece: int = PIECE
) -> list[Work]:
    """The benchmark ``name``, or its documents ``indices``, in pieces of ``piece`` documents.

    Each sample is asked once and written down for all of ``methods``, which are those that would be asked the same.
    Every request is built and its length checked here, so that none is too long after hours.
    """
    benchmark = bridge.load(name)
    chosen = range(len(benchmark.documents)) if indices is None else indices
    pieces = [chosen[first : first + piece] for first in range(0, len(chosen), piece)]
    task = "ruler" if benchmark.length else "short"

    def work(part: Sequence[int]) -> Work:
        group = f"{name} (lm-eval)" if benchmark.length else name  # our own RULER goes by the plain name
        keys = [Key(task, method, benchmark.length, group, str(index)) for method in methods for index in part]

        def measure() -> list[Record]:
            started = time.monotonic()
            samples = bridge.measure(name, part)
            seconds = (time.monotonic() - started) / len(part)
            return [
                _record(key, sample, seconds=seconds) for key, sample in zip(keys, samples * len(methods), strict=True)
            ]

        return Work(
            title=f"{task} {methods[0]} {name} {part[0]}-{part[-1]}",
            keys=tuple(keys),
            tokens=max(1, bridge.tokens(name, part) // len(part)),
            passes=len(part),
            measure=measure,
        )

    return [work(part) for part in pieces]


def _record(key: Key, sample: Sample, *, seconds: float) -> Record:
    return Record(
        key=key,
        values=sample.values,
        expected=sample.expected,
        answer=sample.answer,
        seconds=seconds,
        notes={"tokens": str(sample.length)},
    )


def _averaged(benchmark: Benchmark, document: Any, scored: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one document whose mean over documents is what lm-eval reports."""
    if benchmark.length:
        # RULER names its score for the length, and gives -1 for other lengths.
        return {"score": float(scored[str(document["max_length"])])}
    mean = require("lm_eval.api.metrics", "eval").mean
    by_name = benchmark.task.aggregation()
    return {metric: float(value) for metric, value in scored.items() if by_name.get(metric, mean) is mean}


def _answer(requests: Sequence[Any], choices: Sequence[str] | None) -> str:
    """What the model wrote, or the choice it finds likeliest; nothing for the likelihood of one text."""
    if requests[0].request_type == "generate_until":
        return str(requests[0].resps[0])
    if choices is None:
        return ""
    likelihoods = [request.resps[0][0] for request in requests[: len(choices)]]
    return str(choices[likelihoods.index(max(likelihoods))])


def _expected(task: Any, document: Any, choices: Sequence[str] | None) -> str:
    gold = task.doc_to_text(document) if getattr(task, "multiple_input", 0) else task.doc_to_target(document)
    found = gold if isinstance(gold, list) else [gold]
    return ", ".join(str(choices[each] if choices is not None and isinstance(each, int) else each) for each in found)
