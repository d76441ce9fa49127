"""RULER's variable tracking (arXiv 2404.06654, section 3.2): which variables got a value, through a chain of copies.

In: a number of noise lines and a stream of chance. Out: a prompt, which begins with a solved example of another chain.
Strings and the order of the draws are those of lm-eval 0.4.13, with the number drawn from the same stream. Unlike there
the example counts when the noise is sized, so that the task exists at 1,024 tokens, where lm-eval does not return.
"""

import random
import string
from dataclasses import dataclass, replace
from itertools import pairwise

from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler.case import Case
from longrope_vllm.evaluation.ruler.sizing import fit

_MAX_TOKENS = 30
_EXAMPLE_LENGTH = 500
_HOPS = 4
_LETTERS = 5
_EXAMPLE_LETTERS = 3
_NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
_TEXT = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: Find "
    "all variables that are assigned the value {value} in the text above. Answer: According to the chain(s) of "
    "variable assignment in the text above, {variables} variables are assgined the value {value}, they are: "
)
SMALLEST = _HOPS + 2
"""Noise lines from which on every assignment stands at a place of its own, with noise about it."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A text with one chain of assignments in it, the question about it, and the answer."""

    text: str
    names: tuple[str, ...]


def variable_prompt(case: Case) -> Prompt:
    """The prompt of ``case``. Raises ``EvaluationError`` for too short a length."""

    def build_example(size: int) -> Prompt:
        chain = example_chain(size, rng=case.rng("example"))
        return Prompt(text=chain.text, expected=chain.names, max_tokens=_MAX_TOKENS)

    found = fit(build_example, replace(case, length=_EXAMPLE_LENGTH), smallest=SMALLEST)
    example = Chain(text=found.text, names=found.expected)

    def build(size: int) -> Prompt:
        return tracked(size, example, rng=case.rng())

    return fit(build, case, smallest=SMALLEST)


def example_chain(size: int, *, rng: random.Random) -> Chain:
    """A chain of short names, to be solved before the one that is asked for."""
    return chained(size, letters=_EXAMPLE_LETTERS, rng=rng)


def tracked(size: int, example: Chain, *, rng: random.Random) -> Prompt:
    """A prompt of ``example``, solved and with other names, and a chain in ``size`` lines of noise."""
    chain = chained(size, letters=_LETTERS, rng=rng)
    return Prompt(
        text=f"{_solved(example, rng=rng)}\n\n{chain.text.rstrip()}", expected=chain.names, max_tokens=_MAX_TOKENS
    )


def chained(size: int, *, letters: int, rng: random.Random) -> Chain:
    """``size`` lines of noise with one chain in them, in order; its variables have ``letters`` letters."""
    assert size >= SMALLEST, "fewer lines leave no noise between the assignments"
    drawn = [_name(letters, rng) for _ in range(_HOPS + 1)]
    while len(set(drawn)) <= _HOPS:
        drawn.append(_name(letters, rng))
    names = tuple(dict.fromkeys(drawn))
    value = str(rng.randrange(10_000, 99_999))
    copies = [f"VAR {target} = VAR {source} " for source, target in pairwise(names)]
    assignments = [f"VAR {names[0]} = {value}", *copies]
    lines = [_NOISE] * size
    places = sorted(rng.sample(range(size), len(assignments)))
    for shift, (place, assignment) in enumerate(zip(places, assignments, strict=True)):
        lines.insert(place + shift, assignment)
    return Chain(text=_TEXT.format(context=" ".join(lines), value=value, variables=len(names)), names=names)


def _solved(example: Chain, *, rng: random.Random) -> str:
    """``example`` with its answer, and with other names.

    By replacement in the whole text, as RULER does it: a name that is ``VAR`` itself, in one of 3,500 examples, spoils
    its example.
    """
    text = f"{example.text} {' '.join(example.names)}\n\n"
    for name in example.names:
        text = text.replace(name, _name(len(name), rng))
    return text


def _name(letters: int, rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_uppercase, k=letters))
