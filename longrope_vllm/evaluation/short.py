"""The task ``short``: benchmarks of lm-eval, each request asked once for all subjects that read it under one rope.

With a tier for each request, a question within the trained window is read under the model's own rope whatever the
longer tiers are: the retention of those methods is 1 by construction, and measured once. Names of RULER's tasks are
lm-eval's own versions of them, at each length.
"""

from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.request import Request
from longrope_vllm.evaluation.ruler import TASKS as RULER_TASKS
from longrope_vllm.evaluation.subject import Subject
from longrope_vllm.evaluation.work import Work
from longrope_vllm.extras import require


def benchmark_work(request: Request, subjects: Sequence[Subject], encoder: Encoder) -> list[Work]:
    """Pieces of every benchmark asked for. Raises ``EvaluationError`` for one that cannot be measured as asked."""
    require("lm_eval", "eval")
    from longrope_vllm.evaluation.harness.benchmarks import Benchmarks
    from longrope_vllm.evaluation.harness.ruler_bounds import Ruler

    short = [name for name in request.benchmarks if name not in RULER_TASKS]
    long = [name for name in request.benchmarks if name in RULER_TASKS]
    made = partial(Benchmarks, include_path=request.include_path)
    work = _work(made(), short, subjects, encoder, limit=request.benchmark_limit) if short else []
    for length in request.lengths if long else ():
        tokenizer = Path(encoder.tokenizer.name_or_path)
        ruler = Ruler(length=length, samples=request.ruler_samples, tokenizer=tokenizer)
        work += _work(made(ruler=ruler), long, subjects, encoder, limit=request.ruler_samples)
    return work


def _work(
    benchmarks: Any, names: Sequence[str], subjects: Sequence[Subject], encoder: Encoder, *, limit: int | None
) -> list[Work]:
    from longrope_vllm.evaluation.harness.bridge import Bridge, short_work

    for name in names:
        benchmarks.load(name)  # before any model is
    template = partial(encoder.tokenizer.apply_chat_template, tokenize=False) if encoder.chat else None
    bridges = [Bridge(subject.harness_model(), benchmarks, chat_template=template) for subject in subjects]
    work = []
    for name in names:
        indices = range(bridges[0].size(name))[:limit]
        lengths = sorted(bridges[0].lengths(name, indices))
        sharing: dict[Hashable, list[int]] = {}
        for number, subject in enumerate(subjects):
            sharing.setdefault(tuple(subject.rope(length) for length in lengths), []).append(number)
        for numbers in sharing.values():
            labels = [subjects[number].label for number in numbers]
            work += short_work(bridges[numbers[0]], name, methods=labels, indices=indices)
    return work
