"""How much hay fits: the size of a prompt, in units of its task, for a length in tokens.

RULER (arXiv 2404.06654) adds units until a prompt is too long, which takes thousands of tokenizations of a long one.
Here the cost of a unit is measured on small prompts and the size is found by the secant rule between one that fits and
one that does not: in all, one to five times its text is counted.
"""

from collections.abc import Callable

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler.case import Case

_CLOSE = 256
"""A prompt that leaves less than this fraction of its length unused is long enough."""
_STRIDE = 8
"""How many times larger than what was measured the next size may be: small prompts tell the cost of large ones well
enough, and cost little."""
_MOST_UNITS = 8
"""Units for each token of the length that no tokenizer needs: a unit is a word or more."""


def fit(build: Callable[[int], Prompt], case: Case, *, smallest: int) -> Prompt:
    """The prompt that ``build`` makes of the largest size that ``case.length`` holds, or one near it.

    It leaves unused less than one unit or less than 1/256 of the length. Sizes start at ``smallest``. Raises
    ``EvaluationError`` when that one is too long, or when no size is long enough.
    """

    def unused(prompt: Prompt) -> int:
        return case.length - prompt.max_tokens - case.count(prompt.text)

    low, best = smallest, build(smallest)
    spare = first = unused(best)
    if first < 0:
        raise EvaluationError(
            f"Expected a length of at least {case.length - first:,} tokens for {case.task}, sample {case.sample}, "
            f"found {case.length:,}: choose a longer one, or leave this task out."
        )
    high: int | None = None
    over = 0  # tokens by which ``high`` is too long
    steps = 0
    while spare * _CLOSE > case.length and (high is None or high - low > 1):
        if low > _MOST_UNITS * case.length:
            raise EvaluationError(
                f"Expected a count of tokens that grows with the text, found {case.length - best.max_tokens - spare:,} "
                f"tokens for {len(best.text):,} characters of {case.task}: give a tokenizer that has its vocabulary."
            )
        wanted = spare - case.length / _CLOSE / 2
        if high is None:
            per_unit = (first - spare) / (low - smallest) if low > smallest else 1.0
            size = low + int(wanted / max(per_unit, 1e-3))
            size = max(low + 1, min(size, low * _STRIDE + _STRIDE))
        else:
            # A unit is not one cost throughout (longer numbers, other words), so that the secant alone may creep.
            share = 0.5 if steps % 3 == 2 else wanted / (spare + over)
            size = min(max(low + int((high - low) * share), low + 1), high - 1)
        steps += 1
        prompt = build(size)
        left = unused(prompt)
        if left < 0:
            high, over = size, -left
        else:
            low, best, spare = size, prompt, left
    return best
