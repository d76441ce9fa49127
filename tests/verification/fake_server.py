"""A server in thirty lines whose answers depend on the context and on the rope, and some ways to get the rope wrong.

``rope`` decides which tier's rope computes a token; the correct one is the tier that the request is in.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from longrope_vllm.verification.answers import Answer, Question, Served, Step
from longrope_vllm.verification.prompts import Prompts
from longrope_vllm.verification.subject import Pace, Subject

VOCABULARY = 500
TOP = 10


@dataclass(kw_only=True)
class Request:
    """One request while it is served."""

    question: Question
    tier: int
    """Index of the tier it is in."""
    crossings: int = 0


Rope = Callable[["FakeServer", Request], int]


class FakeServer:
    """Tiers up to ``lengths``; log-probabilities that the rope of another tier moves by about ``effect``."""

    def __init__(self, *lengths: int, rope: Rope = lambda server, request: request.tier, effect: float = 1.0) -> None:
        self.lengths = lengths
        self.rope = rope
        self.effect = effect
        self.noise = 0.0
        self.running: list[Request] = []
        self.cache: dict[tuple[int, ...], int] = {}
        self.served_of: dict[str, Served] = {}
        self._chance = random.Random(0)

    def index_for(self, length: int) -> int:
        """Index of the shortest tier that holds ``length``."""
        return next(index for index, limit in enumerate(self.lengths) if length <= limit)

    async def ask(self, question: Question) -> Answer:
        """Answer greedily."""
        request = Request(question=question, tier=self.index_for(max(len(question.prompt), question.tier or 0)))
        self.running.append(request)
        context, steps = list(question.prompt), []
        for _ in range(question.max_tokens):
            await asyncio.sleep(0)  # whoever is sent together runs together, token by token
            if len(context) > self.lengths[request.tier]:
                request.tier, request.crossings = request.tier + 1, request.crossings + 1
            step = self.step(context, self.rope(self, request))
            steps.append(step)
            context.append(step.token)
        self.running.remove(request)
        if question.salt is None:
            self.cache.setdefault(question.prompt[:32], request.tier)
        name = f"cmpl-{len(self.served_of)}"
        self.served_of[name] = Served(
            tier_max_length=self.lengths[request.tier], tokens=len(context), crossings=request.crossings
        )
        return Answer(id=name, steps=tuple(steps), text="", cached_tokens=None, started=0.0, finished=1.0)

    def step(self, context: list[int], rope: int) -> Step:
        """The most likely tokens after ``context``, computed with the rope of tier ``rope``."""
        chance = random.Random(str((len(context), context[-16:])))
        tokens = chance.sample(range(VOCABULARY), TOP)
        turned = random.Random(str((len(context), context[-16:], rope)))
        top = {
            token: -0.3 * rank + self.effect * turned.gauss() + self.noise * self._chance.gauss()
            for rank, token in enumerate(tokens)
        }
        return Step(token=max(top, key=lambda token: top[token]), top=top)

    async def served(self, answer: Answer) -> Served:
        """What the server says about a request."""
        return self.served_of[answer.id]


def of_the_longest_in_the_batch(server: FakeServer, request: Request) -> int:
    """The rope that the longest request needs, for everybody."""
    return max(each.tier for each in server.running)


def of_the_beginning(server: FakeServer, request: Request) -> int:
    """The rope of the first tokens, also after a crossing."""
    return request.tier - request.crossings


def of_the_cached_blocks(server: FakeServer, request: Request) -> int:
    """The rope under which the first blocks were cached, whoever asked."""
    known = server.cache.get(request.question.prompt[:32])
    return request.tier if request.question.salt is not None or known is None else known


def of_the_longest_tier(server: FakeServer, request: Request) -> int:
    """One rope for everybody."""
    return len(server.lengths) - 1


def subject_of(server: FakeServer) -> Subject:
    """``server`` under examination."""
    chance = random.Random(0)
    text = tuple(chance.randrange(VOCABULARY) for _ in range(5000))
    return Subject(
        server=server,
        prompts=Prompts(beginning=(1,), text=text, seed=0),
        concurrency=8,
        pace=Pace(lambda said: None),
    )
