"""A number hidden half-way in the longest prompt: is it found? Tells of the model, nothing about exactness."""

from longrope_vllm.verification.answers import Question
from longrope_vllm.verification.client import Server
from longrope_vllm.verification.extents import ANSWER, Extent
from longrope_vllm.verification.findings import Finding
from longrope_vllm.verification.subject import Subject

NUMBER = "48213"
FACT = f"\n\nThe secret access code of the north gate is {NUMBER}. Remember it.\n\n"
ASKED = "\n\nAs was said above, the secret access code of the north gate is"


async def needle(subject: Subject, server: Server, longest: Extent) -> Finding:
    """Let the model continue a sentence about the number; information, never a failure."""
    fact = await server.tokenize(FACT, special=False)
    asked = await server.tokenize(ASKED, special=False)
    length = longest.top - ANSWER
    filler = subject.prompts.prompt("needle", max(0, length - len(fact) - len(asked)))
    middle = len(filler) // 2
    prompt = (*filler[:middle], *fact, *filler[middle:], *asked)
    (answer,) = await subject.alone([Question(prompt=prompt[-length:], max_tokens=ANSWER)])
    verdict = "found" if NUMBER in answer.text else "not found"
    return Finding(
        status="information",
        compared=f"a number hidden half-way in {len(prompt):,} tokens",
        reason=f"{verdict} (answer {answer.text.strip()[:40]!r}): a matter of the model's quality, not of exactness",
        answers=1,
    )
