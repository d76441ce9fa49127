"""Needle in a haystack: one fact put into real text at some depth, and asked for at the end.

The grid of length by depth is Kamradt's (2023); the fact is a city's number, so that an answer can be scored by its
digits instead of by a second model.
"""

import random
from collections.abc import Callable

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.encoder import fit
from longrope_vllm.evaluation.prompt import Prompt

MAX_TOKENS = 16
_LINE = 400
_WORD = 60
"""Characters that are looked through for the beginning of a line, and of a word."""
_CITIES = ("Lisbon", "Nairobi", "Toronto", "Oslo", "Lima", "Kyoto", "Cairo", "Dublin", "Hanoi", "Quito")


def needle_prompt(
    count: Callable[[str], int], *, length: int, depth: float, haystack: str, draw: random.Random
) -> Prompt:
    """A question of ``length`` tokens with its answer, the fact at ``depth`` from 0 (the beginning) to 1.

    The fact stands between two lines of ``haystack``, or where lines are long between two words. Raises
    ``EvaluationError`` when the haystack is too short.
    """
    city, number = draw.choice(_CITIES), draw.randint(1_000_000, 9_999_999)

    def build(size: int) -> str:
        straw = haystack[:size]
        place = _boundary(straw, round(len(straw) * depth))
        return (
            "Somewhere in the text below stands the special number of a city. Memorize it. "
            "You will be asked for it.\n\n"
            f"{straw[:place]}The special number of {city} is {number}.\n{straw[place:]}\n\n"
            f"Question: What is the special number of {city} in the text above?\n"
            f"Answer: The special number of {city} is"
        )

    text = fit(build, count, budget=length - MAX_TOKENS)
    if text == build(len(haystack)):
        raise EvaluationError(
            f"Expected a haystack of {length:,} tokens, found one of {count(haystack):,}: give longer documents."
        )
    return Prompt(text=text, expected=(str(number),), max_tokens=MAX_TOKENS, depth=depth, match="number")


def _boundary(straw: str, near: int) -> int:
    """The last place shortly before ``near`` where a line begins, else a word; ``near`` in a script without spaces."""
    if near in (0, len(straw)):
        return near
    for mark, reach in (("\n", _LINE), (" ", _WORD)):
        found = straw.rfind(mark, max(0, near - reach), near)
        if found >= 0:
            return found + 1
    return near
