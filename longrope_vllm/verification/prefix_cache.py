"""One prompt that begins another, in different tiers: cached blocks of one must never serve the other."""

from collections.abc import Sequence

from longrope_vllm.verification.answers import Answer, Question
from longrope_vllm.verification.equality import Tolerance, compare
from longrope_vllm.verification.extents import ANSWER, Boundary
from longrope_vllm.verification.findings import Finding, Pair, judged, skipped
from longrope_vllm.verification.subject import Subject

SHARE = 0.75
"""How far the short prompt goes into its tier; several blocks of the cache in any server."""
LONGER_BY = 500
"""Tokens past the boundary that the long prompt goes at most."""


async def prefix_isolation(subject: Subject, tolerance: Tolerance, boundary: Boundary) -> Finding:
    """Short, long, short again, and with other prompts long, short, long again; the cache is shared with everybody.

    The oracle is the same prompt under a cache key of its own, which finds nothing.
    """
    compared = (
        f"a prompt below {boundary.at:,} tokens and one above it that begins with it, asked in both orders, with "
        "the same prompts under unique cache keys"
    )
    short, long = _prompts(subject, boundary, "cached")
    reverse_short, reverse_long = _prompts(subject, boundary, "cached in reverse")
    forward = await subject.in_order([short, long, short])
    backward = await subject.in_order([reverse_long, reverse_short, reverse_long])
    oracles = await subject.alone([short, long, reverse_short, reverse_long])
    orders = {
        "short after nothing": (forward[0], oracles[0]),
        "long after short": (forward[1], oracles[1]),
        "short again": (forward[2], oracles[0]),
        "long after nothing": (backward[0], oracles[3]),
        "short after long": (backward[1], oracles[2]),
        "long again": (backward[2], oracles[3]),
    }
    pairs = [Pair(what=name, comparison=compare(ours.steps, theirs.steps)) for name, (ours, theirs) in orders.items()]
    finding = judged(f"{compared}; {_told(forward, backward)}", pairs, tolerance, _shared(forward, backward))
    if finding.status == "passed" and _is_off(forward, backward):
        return skipped(
            compared,
            "the server found no cached block for a repeated prompt: its prefix cache is off, or its blocks are longer "
            "than the prompt",
        )
    return finding


def _prompts(subject: Subject, boundary: Boundary, name: str) -> tuple[Question, Question]:
    long = subject.prompts.prompt(name, boundary.longer.length(1.0, at_most=min(LONGER_BY, boundary.at)))
    short = long[: boundary.shorter.length(SHARE, at_most=boundary.at)]
    return Question(prompt=short, max_tokens=ANSWER), Question(prompt=long, max_tokens=ANSWER)


def _shared(*orders: Sequence[Answer]) -> list[str]:
    """Blocks that one tier took from the other, where the server tells."""
    problems = []
    for first, other, _ in orders:
        if (
            first.cached_tokens == 0 and other.cached_tokens
        ):  # a prompt asked in an earlier run is in the cache by right
            problems.append(
                f"expected no cached token for a prompt whose beginning was asked in another tier, found "
                f"{other.cached_tokens:,}"
            )
    return problems


def _is_off(*orders: Sequence[Answer]) -> bool:
    return all(again.cached_tokens == 0 for _, _, again in orders)


def _told(*orders: Sequence[Answer]) -> str:
    if any(answer.cached_tokens is None for order in orders for answer in order):
        return "the server does not tell what was cached (--enable-prompt-tokens-details)"
    again = ", ".join(f"{order[2].cached_tokens:,}" for order in orders)
    other = ", ".join(f"{order[1].cached_tokens:,}" for order in orders)
    return f"cached tokens when repeated: {again}, across tiers: {other}"
