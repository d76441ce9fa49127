"""Short requests beside a long one: nobody's answer may depend on who else is served."""

from longrope_vllm.verification.answers import Question
from longrope_vllm.verification.equality import Tolerance, compare
from longrope_vllm.verification.extents import ANSWER, Boundary
from longrope_vllm.verification.findings import Finding, Pair, judged
from longrope_vllm.verification.subject import Subject

SHARES = (0.1, 0.3, 0.5, 0.9)
SHORT = 1000
"""Tokens into its tier that a short prompt goes at most."""


async def neighbours(subject: Subject, tolerance: Tolerance, boundary: Boundary) -> Finding:
    """Each alone, then the long one first and the short ones while it is being prefilled."""
    lengths = [boundary.shorter.length(share, at_most=SHORT) for share in SHARES]
    long_length = boundary.longer.length(1.0, at_most=boundary.at)
    questions = [
        Question(prompt=subject.prompts.prompt(f"neighbour {index}", length), max_tokens=ANSWER)
        for index, length in enumerate([long_length, *lengths])
    ]
    alone, together = await subject.alone(questions), await subject.together(questions)
    pairs = [
        Pair(what=f"prompt of {len(question.prompt):,} tokens", comparison=compare(ours.steps, theirs.steps))
        for question, ours, theirs in zip(questions, together, alone, strict=True)
    ]
    overlapping = sum(answer.started < together[0].finished for answer in together[1:])
    compared = (
        f"{len(lengths)} requests of the tier up to {boundary.at:,} alone and beside one of {long_length:,} tokens "
        f"({overlapping} sent before it was answered), and that one as well"
    )
    return judged(compared, pairs, tolerance)
