"""Which prompt of a task is wanted, and from which texts it is written."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.ruler.document_questions import QuestionSet


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Texts that do not come with the tasks. What is left out is only missed by the tasks that need it."""

    prose: str = ""
    """Running text in which needles are hidden; RULER takes essays. It is repeated when a prompt is longer."""
    squad: QuestionSet | None = None
    """For ``ruler_qa_squad``; without it made-up people are asked about, see ``facts``."""
    hotpot: QuestionSet | None = None
    """For ``ruler_qa_hotpot``, likewise."""

    @cached_property
    def words(self) -> tuple[str, ...]:
        """``prose`` word by word. Raises ``EvaluationError`` when there is none."""
        found = tuple(self.prose.split())
        if not found:
            raise EvaluationError(
                "Expected prose in which to hide needles, found none: give a text, or choose tasks with a haystack of "
                "their own (niah_single_1, niah_multikey_2, niah_multikey_3)."
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Case:
    """One prompt of one task. The same case is the same prompt, whatever was written before it."""

    task: str
    length: int
    """Tokens of the prompt and of the room for its answer."""
    sample: int
    """Which of the prompts that differ in nothing but chance, from 0."""
    seed: int
    count: Callable[[str], int]
    """Tokens of a text, as the model will be given it."""
    sources: Sources

    def __post_init__(self) -> None:
        assert self.sample >= 0, "samples are numbered from 0"

    def rng(self, part: str = "prompt") -> random.Random:
        """A new stream of chance for ``part``, from its beginning.

        The length is not in it: the prompts of one sample hide the same needles at every length.
        """
        return random.Random(f"{self.seed}/{self.task}/{self.sample}/{part}")
