"""The same questions to another server: one with other chunks, one that serves the shortest tier only."""

from collections.abc import Sequence

from longrope_vllm.verification.answers import Answer, Question
from longrope_vllm.verification.crossing import BEFORE
from longrope_vllm.verification.equality import Tolerance, compare
from longrope_vllm.verification.extents import ANSWER, Extent, boundaries
from longrope_vllm.verification.findings import Finding, Pair, judged
from longrope_vllm.verification.subject import Subject

SHARES = (0.1, 0.3, 0.6)
SHORT = 1000
"""Tokens into its tier that most prompts go; one of each tier goes further."""


def questions_everywhere(subject: Subject, tiers: Sequence[Extent]) -> list[Question]:
    """Prompts of every tier, its end among them, and a request that crosses each boundary."""
    prompt = subject.prompts.prompt
    lengths = [
        length
        for tier in tiers
        for length in (
            *(tier.length(share, at_most=SHORT) for share in SHARES),
            # Up to twice the previous tier: enough for many chunks, and not the whole of a very long one.
            tier.length(1.0, at_most=tier.lower or tier.top),
        )
    ]
    within = [
        Question(prompt=prompt(f"everywhere {index}", length), max_tokens=ANSWER)
        for index, length in enumerate(lengths)
    ]
    across = [
        Question(prompt=prompt("across", boundary.at - BEFORE), max_tokens=BEFORE + 1 + ANSWER)
        for boundary in boundaries(tiers)
    ]
    return within + across


async def same_answers(
    subject: Subject,
    tolerance: Tolerance,
    *,
    questions: Sequence[Question],
    expected: Sequence[Answer],
    compared: str,
) -> Finding:
    """``questions`` to ``subject``, whose answers should be the ``expected`` ones of the server under examination."""
    found = await subject.alone(questions)
    pairs = [
        Pair(what=f"prompt of {len(question.prompt):,} tokens", comparison=compare(theirs.steps, ours.steps))
        for question, theirs, ours in zip(questions, found, expected, strict=True)
    ]
    return judged(compared, pairs, tolerance)
