"""RULER (arXiv 2404.06654): thirteen synthetic tasks at any length, with the prompts of lm-eval 0.4.13.

``ruler_prompt`` writes one prompt; task, length, sample and seed decide it, whatever was written before. Nothing is
downloaded: prose comes from the caller, and questions from the caller's files or from made-up facts.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler.case import Case, Sources
from longrope_vllm.evaluation.ruler.niah import Needles, needle_prompt
from longrope_vllm.evaluation.ruler.qa import hotpot_prompt, squad_prompt
from longrope_vllm.evaluation.ruler.variables import variable_prompt
from longrope_vllm.evaluation.ruler.words import common_words_prompt, frequent_words_prompt

__all__ = ["NEEDLES", "TASKS", "Sources", "ruler_prompt"]

NEEDLES: Mapping[str, Needles] = MappingProxyType(
    {
        "niah_single_1": Needles(haystack="repeat"),
        "niah_single_2": Needles(haystack="prose"),
        "niah_single_3": Needles(haystack="prose", value="uuids"),
        "niah_multikey_1": Needles(haystack="prose", keys=4),
        "niah_multikey_2": Needles(haystack="needle"),
        "niah_multikey_3": Needles(haystack="needle", key="uuids", value="uuids"),
        "niah_multivalue": Needles(haystack="prose", values=4),
        "niah_multiquery": Needles(haystack="prose", keys=4, asked=4),
    }
)
"""The needle tasks: the settings of RULER's table 5, under the names of lm-eval."""

TASKS: Mapping[str, Callable[[Case], Prompt]] = MappingProxyType(
    {name: partial(needle_prompt, needles) for name, needles in NEEDLES.items()}
    | {
        "ruler_vt": variable_prompt,
        "ruler_cwe": common_words_prompt,
        "ruler_fwe": frequent_words_prompt,
        "ruler_qa_squad": squad_prompt,
        "ruler_qa_hotpot": hotpot_prompt,
    }
)
"""What writes the prompt of a task, by the task's name in lm-eval."""


def ruler_prompt(
    task: str, *, length: int, sample: int, seed: int, count: Callable[[str], int], sources: Sources
) -> Prompt:
    """The prompt number ``sample`` of ``task``, whose tokens by ``count`` and ``max_tokens`` fill ``length``.

    It is never longer, and shorter by less than one unit of the task (a line, a document) or 1/256 of ``length``.
    Raises ``EvaluationError`` for an unknown task, a length that is too short for it, or prose that it needs and that
    is not there; ``MissingExtraError`` without wonderwords.
    """
    if task not in TASKS:
        raise EvaluationError(f"Expected a RULER task, one of {', '.join(TASKS)}, found {task!r}.")
    case = Case(task=task, length=length, sample=sample, seed=seed, count=count, sources=sources)
    return TASKS[task](case)
