"""What every check gets: a server, prompts for it, and ways to ask it one at a time or all at once."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from longrope_vllm.verification.answers import Answer, Asked, Question
from longrope_vllm.verification.prompts import Prompts


class Pace:
    """Tells how much is being asked and, from what was answered so far, about how long that takes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._tokens = 0
        self._seconds = 0.0

    @contextmanager
    def asking(self, questions: Sequence[Question]) -> Iterator[None]:
        """Around the requests for ``questions``."""
        tokens = sum(question.tokens for question in questions)
        self._say(
            f"{len(questions)} x {max(question.tokens for question in questions):,} tokens{self._estimate(tokens)}"
        )
        started = time.monotonic()
        yield
        self._seconds += time.monotonic() - started
        self._tokens += tokens

    def _estimate(self, tokens: int) -> str:
        if not self._tokens:
            return ""
        return f", about {tokens * self._seconds / self._tokens:.0f} s by the pace so far"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A server under examination."""

    server: Asked
    prompts: Prompts
    concurrency: int
    """Requests sent at once under load."""
    pace: Pace

    async def alone(self, questions: Sequence[Question]) -> list[Answer]:
        """One after another, each computed from its first token on."""
        return await self.in_order([uncached(question) for question in questions])

    async def together(self, questions: Sequence[Question]) -> list[Answer]:
        """All at once, in this order, each computed from its first token on."""
        with self.pace.asking(questions):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self.server.ask(uncached(question))) for question in questions]
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def in_order(self, questions: Sequence[Question]) -> list[Answer]:
        """One after another, with whatever the prefix cache holds for them."""
        answers = []
        for question in questions:
            with self.pace.asking([question]):
                answers.append(await self.server.ask(question))
        return answers


def uncached(question: Question) -> Question:
    """``question`` under a key of the prefix cache that nobody else has."""
    return replace(question, salt=uuid.uuid4().hex)
