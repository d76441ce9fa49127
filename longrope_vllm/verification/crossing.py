"""Requests that outgrow their tier while they generate, alone and many at once.

Up to the boundary such an answer must be that of a request that stops there; from then on it must be that of a fresh
request whose prompt is everything read so far, one token too long for the tier, which starts in the longer one.
"""

from collections.abc import Awaitable, Callable, Sequence

from longrope_vllm.verification.answers import Answer, Question
from longrope_vllm.verification.equality import Tolerance, compare
from longrope_vllm.verification.extents import ANSWER, Boundary
from longrope_vllm.verification.findings import Finding, Pair, judged
from longrope_vllm.verification.subject import Subject

BEFORE = 6
"""Tokens that a lone request generates up to the boundary."""
GENERATED_SHARE, GENERATED_LIMIT = 0.122, 500
"""Tokens generated under load, as a share of the tier: 500 at a boundary of 4,096."""
BEFORE_SHARE = 0.392
"""Of these up to the boundary: prompts of 3,900 tokens there."""
LOAD = 1_000_000
"""Tokens of all prompts under load; fewer requests are sent where they would be more."""
COMPARED_AFTER = 64
"""Tokens compared after the boundary."""

Ask = Callable[[Sequence[Question]], Awaitable[list[Answer]]]


async def crossing(subject: Subject, tolerance: Tolerance, boundary: Boundary) -> Finding:
    """One request at a time."""
    questions = [_question(subject, boundary, f"crossing {index}", BEFORE, BEFORE + 1 + ANSWER) for index in range(3)]
    return await _check(subject, tolerance, boundary, questions, subject.alone)


async def crossing_under_load(subject: Subject, tolerance: Tolerance, boundary: Boundary) -> Finding:
    """As many requests at once as ``concurrency`` says, each with another prompt."""
    generated = max(ANSWER, min(round(GENERATED_SHARE * boundary.at), GENERATED_LIMIT))
    before = round(BEFORE_SHARE * generated)
    generated = min(generated, before + boundary.longer.top - boundary.at)
    count = max(2, min(subject.concurrency, LOAD // boundary.at))
    questions = [_question(subject, boundary, f"load {index}", before, generated) for index in range(count)]
    return await _check(subject, tolerance, boundary, questions, subject.together)


def _question(subject: Subject, boundary: Boundary, name: str, before: int, generated: int) -> Question:
    return Question(prompt=subject.prompts.prompt(name, boundary.at - before), max_tokens=generated)


async def _check(
    subject: Subject, tolerance: Tolerance, boundary: Boundary, questions: Sequence[Question], ask: Ask
) -> Finding:
    answers = await ask(questions)
    # Read within the tier: the tokens up to the boundary, and the one that is computed from the last of them.
    within = [boundary.at - len(question.prompt) + 1 for question in questions]
    stopping = [
        Question(prompt=question.prompt, max_tokens=count) for question, count in zip(questions, within, strict=True)
    ]
    fresh = [
        Question(
            prompt=question.prompt + answer.tokens[:count],
            max_tokens=min(question.max_tokens - count, COMPARED_AFTER),
        )
        for question, answer, count in zip(questions, answers, within, strict=True)
    ]
    stopped, continued = await ask(stopping), await ask(fresh)
    pairs, problems = [], []
    for index, (answer, count) in enumerate(zip(answers, within, strict=True)):
        name = f"request {index + 1} of {len(answers)}"
        pairs += [
            Pair(what=f"{name} up to the boundary", comparison=compare(answer.steps[:count], stopped[index].steps)),
            Pair(what=f"{name} after it", comparison=compare(answer.steps[count:], continued[index].steps)),
        ]
        problems += await _not_as(subject, answer, boundary.longer.max_length, 1, name)
        problems += await _not_as(subject, stopped[index], boundary.at, 0, f"{name}, stopped at the boundary")
        problems += await _not_as(subject, continued[index], boundary.longer.max_length, 0, f"{name}, asked anew")
    one = questions[0]
    compared = (
        f"{len(questions)} requests of {len(one.prompt):,} + {one.max_tokens} tokens with requests that stop at "
        f"{boundary.at:,} and with fresh ones of {boundary.at + 1:,}"
    )
    return judged(compared, pairs, tolerance, problems)


async def _not_as(subject: Subject, answer: Answer, tier: int, crossings: int, name: str) -> list[str]:
    served = await subject.server.served(answer)
    if (served.tier_max_length, served.crossings) == (tier, crossings):
        return []
    return [
        f"{name}: expected the tier up to {tier:,} after {crossings} crossings, found that up to "
        f"{served.tier_max_length:,} after {served.crossings}"
    ]
