"""The tier of prompts that end just before, on and just after a boundary, and of answers that end there."""

from longrope_vllm.verification.answers import Question
from longrope_vllm.verification.extents import Boundary
from longrope_vllm.verification.findings import Finding
from longrope_vllm.verification.subject import Subject

GENERATED = 4
"""Tokens generated up to the boundary."""


async def tier_choice(subject: Subject, boundary: Boundary) -> Finding:
    """Ask the server which tier served each request.

    The last generated token is never read by the model. A sequence of one token more than the tier, then, was computed
    within it; with two more, the model has to read a token past the boundary, and the request must have crossed once.
    """
    at, shorter, longer = boundary.at, boundary.shorter.max_length, boundary.longer.max_length
    expected = {  # prompt, generated: tier, crossings
        (at - 1, 1): (shorter, 0),
        (at, 1): (shorter, 0),
        (at + 1, 1): (longer, 0),
        (at - GENERATED, GENERATED): (shorter, 0),
        (at - GENERATED, GENERATED + 1): (shorter, 0),
        (at - GENERATED, GENERATED + 2): (longer, 1),
    }
    problems = []
    for (length, generated), (tier, crossings) in expected.items():
        question = Question(prompt=subject.prompts.prompt("boundary", length), max_tokens=generated)
        (answer,) = await subject.alone([question])
        served = await subject.server.served(answer)
        if (served.tier_max_length, served.crossings) != (tier, crossings):
            problems.append(
                f"expected a prompt of {length:,} tokens with {generated} generated in the tier up to {tier:,} after "
                f"{crossings} crossings, found it in that up to {served.tier_max_length:,} after {served.crossings}"
            )
        if served.tokens != question.tokens:
            problems.append(f"expected {question.tokens:,} tokens in all, found {served.tokens:,}")
    return Finding(
        status="failed" if problems else "passed",
        compared=f"tiers of prompts of {at - 1:,}, {at:,} and {at + 1:,} tokens, and of answers that end there",
        reason="; ".join(problems) or None,
        answers=len(expected),
    )
