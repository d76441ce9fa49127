"""How far apart equal answers are on this server, and whether answers with the wrong rope would be further.

The first makes the tolerance of every other check, the second says what that tolerance is worth.
"""

from collections.abc import Sequence
from math import isfinite

from longrope_vllm.verification.answers import Answer, Question
from longrope_vllm.verification.equality import NOISE_LIMIT, Tolerance, compare, largest_noise, logit_step
from longrope_vllm.verification.extents import ANSWER, Boundary, Extent
from longrope_vllm.verification.findings import Finding, Pair, measured, skipped
from longrope_vllm.verification.subject import Subject

SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
SHORT = 1500
"""Tokens into the first tier up to which noise is measured, and one prompt goes to the end of it."""
PAST = (1, 40)
"""Tokens past the beginning of every longer tier: short ways into it, because each costs the whole prompt."""
CLEAR = 1.25
"""Tolerances that answers with a wrong rope must be away from right ones to say that they would be noticed."""


async def noise(subject: Subject, tiers: Sequence[Extent]) -> tuple[Finding, Tolerance]:
    """The same requests alone and beside others of their tier: their difference is rounding, and sets the tolerance.

    The neighbours also take a share of each step, so that prompts are cut into chunks at other places.
    """
    answers = [await _within(subject, tier) for tier in tiers]
    groups = [[compare(found.steps, alone.steps) for found, alone in pairs] for pairs in answers]
    step = logit_step([step for pairs in answers for _, alone in pairs for step in alone.steps])
    tolerance = Tolerance.from_noise(groups, step=step)
    pairs = [Pair(what="noise", comparison=each) for group in groups for each in group]
    largest = largest_noise([pair.comparison for pair in pairs])
    compared = "requests alone and beside others of the same tier, where no rope can be mixed up"
    if largest > NOISE_LIMIT:
        reason = (
            f"the same request is answered differently beside others of its own tier, by {largest:.2g} in a "
            f"log-probability (rounding stays below {NOISE_LIMIT:g}): this server's answers depend on the batch"
        )
        return measured("failed", compared, pairs, tolerance, reason=reason), tolerance
    reason = (
        f"logits in {f'half precision, steps of {step:g}' if step else 'full precision'}; tolerance of all checks: "
        f"{tolerance.largest:.2g} for one log-probability, {tolerance.answer_mean:.2g} for "
        f"the mean of an answer, {tolerance.check_mean:.2g} for the mean of a check"
    )
    return measured("information", compared, pairs, tolerance, reason=reason), tolerance


async def _within(subject: Subject, tier: Extent) -> list[tuple[Answer, Answer]]:
    """Answers in company, each with the answer to the same question alone."""
    if tier.lower == 0:
        lengths = [*(tier.length(share, at_most=SHORT) for share in SHARES), tier.length(1.0, at_most=tier.top)]
    else:
        lengths = [min(tier.lower + past, tier.length(1.0, at_most=tier.top)) for past in PAST]
    asked = [
        Question(prompt=subject.prompts.prompt(f"noise {index}", length), max_tokens=ANSWER)
        for index, length in enumerate(lengths)
    ]
    beside = Question(prompt=subject.prompts.prompt("beside", lengths[0]), max_tokens=ANSWER)
    alone = await subject.alone(asked)
    crowds = [await subject.together(asked), (await subject.together([beside, *reversed(asked)]))[:0:-1]]
    return [pair for crowd in crowds for pair in zip(crowd, alone, strict=True)]


async def sensitivity(subject: Subject, tolerance: Tolerance, boundary: Boundary) -> Finding:
    """Would a wrong rope be noticed? The same prompts in their own tier and, asked for by name, in the next one."""
    compared = f"prompts of the tier up to {boundary.at:,} with their own rope and with that of the next tier"
    lengths = [boundary.shorter.length(share, at_most=SHORT) for share in SHARES]
    right = [
        Question(prompt=subject.prompts.prompt(f"wrong {index}", length), max_tokens=ANSWER)
        for index, length in enumerate(lengths)
    ]
    longer = boundary.longer.max_length
    wrong = [Question(prompt=question.prompt, max_tokens=ANSWER, tier=longer) for question in right]
    expected, found = await subject.alone(right), await subject.alone(wrong)
    for answer in found:
        if (await subject.server.served(answer)).tier_max_length != longer:
            return skipped(compared, "this server does not let a request ask for its tier (field longrope_tier)")
    pairs = [
        Pair(what=f"prompt of {length:,} tokens", comparison=compare(ours.steps, theirs.steps))
        for length, ours, theirs in zip(lengths, found, expected, strict=True)
    ]
    margin = tolerance.ratio([pair.comparison for pair in pairs])
    if margin >= CLEAR:
        reason = f"a wrong rope is {margin:.3g} tolerances away from the right one, so it would be noticed"
        return measured("passed", compared, pairs, tolerance, reason=reason)
    parting = max(pair.comparison.tie_gap or 0.0 for pair in pairs)
    if parting >= CLEAR * tolerance.largest:  # where they part at once, little else is compared
        reason = f"with a wrong rope tokens part that are {_apart(parting)}, so it would be noticed"
        return measured("passed", compared, pairs, tolerance, reason=reason)
    reason = (
        f"the other rope is only {margin:.2g} tolerances away (at least {CLEAR:g} are needed): the rounding of this "
        "dtype hides it, or the server uses one rope for both, so equal answers prove little; verify the model, with "
        "--dtype float32"
    )
    return measured("inconclusive", compared, pairs, tolerance, reason=reason)


def _apart(gap: float) -> str:
    return f"{gap:.2g} apart" if isfinite(gap) else "further apart than the most likely ones listed"
