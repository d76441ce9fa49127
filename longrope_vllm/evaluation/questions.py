"""The tasks that ask questions with known answers, as pieces of work: one for each rope and question.

A question depends on the seed, the length and its place alone: every method gets the same ones, and an evaluation that
is continued, or extended by more lengths, keeps those it has.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic

from longrope_vllm.evaluation.asked import Asked, by_rope
from longrope_vllm.evaluation.needle import needle_prompt
from longrope_vllm.evaluation.passkey import passkey_prompt
from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.records import Key, Record
from longrope_vllm.evaluation.ruler import Sources, ruler_prompt
from longrope_vllm.evaluation.subject import Subject
from longrope_vllm.evaluation.work import Work


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, made when its turn comes."""

    task: str
    length: int
    group: str
    sample: str
    make: Callable[[random.Random], Prompt]

    def prompt(self, seed: int) -> Prompt:
        """The same for the same seed."""
        return self.make(random.Random(f"{seed}/{self.task}/{self.group}/{self.length}/{self.sample}"))


def passkeys(asked: Asked) -> Iterable[Question]:
    """Each length, depth and trial."""
    for length, depth, sample in _grid(asked):

        def make(draw: random.Random, length: int = length, depth: float = depth) -> Prompt:
            return passkey_prompt(asked.encoder.count, length=length, depth=depth, draw=draw)

        yield Question(task="passkey", length=length, group="passkey", sample=sample, make=make)


def needles(asked: Asked, *, haystacks: Sequence[str]) -> Iterable[Question]:
    """Each length, depth and trial, in one of ``haystacks``."""
    for length, depth, sample in _grid(asked):

        def make(draw: random.Random, length: int = length, depth: float = depth) -> Prompt:
            haystack = draw.choice(haystacks)
            return needle_prompt(asked.encoder.count, length=length, depth=depth, haystack=haystack, draw=draw)

        yield Question(task="needle", length=length, group="needle", sample=sample, make=make)


def rulers(asked: Asked, *, tasks: Sequence[str], samples: int, sources: Sources) -> Iterable[Question]:
    """Each length, task and sample."""
    for length in asked.lengths:
        for task in tasks:
            for sample in range(samples):

                def make(draw: random.Random, length: int = length, task: str = task, sample: int = sample) -> Prompt:
                    return ruler_prompt(
                        task,
                        length=length,
                        sample=sample,
                        seed=asked.seed,
                        count=asked.encoder.count,
                        sources=sources,
                    )

                yield Question(task="ruler", length=length, group=task, sample=str(sample), make=make)


def question_work(questions: Iterable[Question], asked: Asked) -> list[Work]:
    """One piece for each question and rope.

    Raises ``EvaluationError`` when the shortest length has no room for one of the kinds of question.
    """
    listed = list(questions)
    shortest = {question.group: question for question in listed if question.length == asked.lengths[0]}
    for question in shortest.values():
        question.prompt(asked.seed)
    return [
        _piece(question, rope[question.length], asked)
        for question in listed
        for rope in by_rope(asked.subjects, [question.length])
    ]


def _piece(question: Question, sharing: Sequence[Subject], asked: Asked) -> Work:
    def measure() -> list[Record]:
        prompt = question.prompt(asked.seed)
        ids = asked.encoder.encode(prompt.text)
        started = monotonic()
        answered = sharing[0].answer(ids, max_tokens=prompt.max_tokens, length=question.length)
        values = {"score": prompt.score(answered.text), "prompt_tokens": float(len(ids))}
        if prompt.depth is not None:
            values["depth"] = prompt.depth
        return [
            Record(
                key=key,
                values=values,
                expected=", ".join(prompt.expected),
                answer=answered.text,
                tier=answered.tier,
                seconds=monotonic() - started,
            )
            for key in keys
        ]

    keys = tuple(
        Key(
            task=question.task,
            method=subject.label,
            length=question.length,
            group=question.group,
            sample=question.sample,
        )
        for subject in sharing
    )
    return Work(title=keys[0].title, keys=keys, tokens=question.length, measure=measure)


def _grid(asked: Asked) -> Iterable[tuple[int, float, str]]:
    for length in asked.lengths:
        for depth in asked.depths:
            for trial in range(asked.trials):
                yield length, depth, f"depth {depth * 100:g}% trial {trial + 1}"
