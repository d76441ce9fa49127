"""Short benchmarks and lm-eval's RULER, sample by sample, as records that an interrupted evaluation can go on from.

In: a model of ``models`` and some of the ``benchmarks``. Out: for each document those metrics of
lm-eval that are averaged over documents. lm-eval builds the requests and scores the answers. Its ``evaluate`` is not
used: it numbers chosen documents by their order, draws the few-shot examples of a document from a state that the
documents before it have moved, and reads the whole data set anew for each call. Here each document stands on its own,
so that pieces give what one run gives.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.harness.benchmarks import Benchmark, Benchmarks, quiet
from longrope_vllm.evaluation.harness.models import Bounded
from longrope_vllm.evaluation.records import Key, Record
from longrope_vllm.evaluation.work import Work
from longrope_vllm.extras import require

PIECE = 50
"""Documents of one piece of work."""
ANSWER_ROOM = 256
"""Tokens of an answer where a benchmark states none, as in lm-eval."""

ChatTemplate = Callable[..., str]
"""Messages, and ``add_generation_prompt``, to the text of a prompt."""


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


class Bridge:
    """Measures one model on benchmarks of lm-eval."""

    def __init__(self, lm: Bounded, benchmarks: Benchmarks, *, chat_template: ChatTemplate | None = None) -> None:
        """``lm`` is a ``LiveModel`` or a ``ServerModel``. Without ``chat_template`` prompts are plain text."""
        self._lm = lm
        self._benchmarks = benchmarks
        self._chat_template = chat_template

    def load(self, name: str) -> Benchmark:
        """The benchmark ``name``. Raises ``EvaluationError`` when there is none, or when it cannot be measured."""
        return self._benchmarks.load(name)

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Documents of each benchmark."""
        return {name: len(self.load(name).documents) for name in names}

    def tokens(self, name: str, indices: Sequence[int]) -> int:
        """Tokens that ``measure`` reads and may write. Raises ``EvaluationError`` for a request that is too long."""
        benchmark = self.load(name)
        return sum(self._lm.check(self._requests(benchmark, index)) for index in self._checked(benchmark, indices))

    def lengths(self, name: str, indices: Sequence[int]) -> frozenset[int]:
        """The different lengths of the requests of these documents, in tokens."""
        benchmark = self.load(name)
        return frozenset(
            self._lm.length(request)
            for index in self._checked(benchmark, indices)
            for request in self._requests(benchmark, index)
        )

    def measure(self, name: str, indices: Sequence[int]) -> list[Sample]:
        """Ask the documents ``indices`` of the benchmark ``name``.

        Raises ``EvaluationError`` before anything runs when a request is too long, and ``ServerError``.
        """
        benchmark = self.load(name)
        asked = {index: self._requests(benchmark, index) for index in self._checked(benchmark, indices)}
        requests = [request for each in asked.values() for request in each]
        if not requests:
            return []
        self._lm.check(requests)
        with quiet():
            for kind, group in groupby(requests, key=lambda request: request.request_type):
                batch = list(group)
                for request, response in zip(batch, getattr(self._lm, kind)(batch), strict=True):
                    request.resps.extend([response] * request.repeats)  # greedy: a second time gives the same
        task: Any = benchmark.task
        task._instances = requests  # what its filters read; lm-eval sets it in build_all_requests
        task.apply_filters()
        return [self._sample(benchmark, index, each) for index, each in asked.items()]

    def _checked(self, benchmark: Benchmark, indices: Sequence[int]) -> Iterator[int]:
        for index in indices:
            if not 0 <= index < len(benchmark.documents):
                raise EvaluationError(
                    f"Expected samples from 0 to {len(benchmark.documents) - 1} of {benchmark.name}, found {index}."
                )
            yield index

    def _requests(self, benchmark: Benchmark, index: int) -> list[Any]:
        """The requests of one document, as lm-eval's ``build_all_requests`` makes them."""
        task, document = benchmark.task, benchmark.documents[index]
        task.set_fewshot_seed(seed=self._benchmarks.seed + index)
        chat = {"apply_chat_template": self._chat_template is not None, "chat_template": self._chat_template}
        context = task.fewshot_context(
            doc=document,
            num_fewshot=task.config.num_fewshot or 0,
            fewshot_as_multiturn=self._chat_template is not None,
            gen_prefix=task.doc_to_prefix(document),
            **chat,
        )
        about = (benchmark.name, index, task.config.repeats)
        built = task.construct_requests(doc=document, ctx=context, metadata=about, **chat)
        found = built if isinstance(built, list) else [built]
        return [_stated(request) if request.request_type == "generate_until" else request for request in found]

    def _sample(self, benchmark: Benchmark, index: int, requests: Sequence[Any]) -> Sample:
        task, document = benchmark.task, benchmark.documents[index]
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
            index=index,
            values=values,
            length=max(map(self._lm.length, requests)),
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
            tokens=bridge.tokens(name, part),
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


def _stated(request: Any) -> Any:
    """``request`` with nothing left to a default of one back end: greedy, its stops, and room for its answer."""
    context, settings = request.args
    found = require("lm_eval.models.utils", "eval").normalize_gen_kwargs(settings, ANSWER_ROOM)
    return replace(
        request,
        arguments=(
            context,
            {
                "until": [stop for stop in found["until"] if stop],
                "max_gen_toks": found["max_gen_toks"],
                "do_sample": False,
                "temperature": 0.0,
            },
        ),
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
