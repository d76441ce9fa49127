"""The requests of one document of a benchmark, made once and kept: what is planned is what is asked.

A task of lm-eval has state: where its few-shot examples are drawn from, which answers its filters read. So whoever uses
a task holds the lock of its benchmark, and whoever asks gets copies of the requests to write the answers into.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from longrope_vllm.evaluation.harness.benchmarks import Benchmark
from longrope_vllm.extras import require

ANSWER_ROOM = 256
"""Tokens of an answer where a benchmark states none, as in lm-eval."""

ChatTemplate = Callable[..., str]
"""Messages, and ``add_generation_prompt``, to the text of a prompt."""


def requests_of(benchmark: Benchmark, index: int, *, seed: int, chat_template: ChatTemplate | None) -> tuple[Any, ...]:
    """The ``Instance``s of the document ``index``; the few-shot examples depend on ``seed`` and the index alone."""
    key = (index, seed, chat_template)
    with benchmark.lock:
        if key not in benchmark.kept:
            benchmark.kept[key] = _made(benchmark, index, seed=seed, chat_template=chat_template)
        return benchmark.kept[key]


def unanswered(requests: Sequence[Any]) -> list[Any]:
    """Copies of ``requests`` for one asking."""
    return [replace(request, resps=[], filtered_resps={}) for request in requests]


def _made(benchmark: Benchmark, index: int, *, seed: int, chat_template: ChatTemplate | None) -> tuple[Any, ...]:
    """As lm-eval's ``build_all_requests`` makes them."""
    task, document = benchmark.task, benchmark.documents[index]
    task.set_fewshot_seed(seed=seed + index)
    chat = {"apply_chat_template": chat_template is not None, "chat_template": chat_template}
    context = task.fewshot_context(
        doc=document,
        num_fewshot=task.config.num_fewshot or 0,
        fewshot_as_multiturn=chat_template is not None,
        gen_prefix=task.doc_to_prefix(document),
        **chat,
    )
    about = (benchmark.name, index, task.config.repeats)
    built = task.construct_requests(doc=document, ctx=context, metadata=about, **chat)
    found = built if isinstance(built, list) else [built]
    return tuple(_stated(request) if request.request_type == "generate_until" else request for request in found)


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
