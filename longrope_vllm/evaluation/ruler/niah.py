"""RULER's eight needle tasks (arXiv 2404.06654, section 3.1): one or several facts hidden in a haystack, and asked for.

In: which needles, the size of the haystack, a stream of chance. Out: a prompt. A size is a count of words for prose and
of lines for the other haystacks. Strings and the order of the draws are those of lm-eval 0.4.13, so that the same
stream makes the same text; where RULER takes essays and cuts them by nltk, prose comes from the caller and is cut by a
rule.
"""

import random
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler.case import Case
from longrope_vllm.evaluation.ruler.sizing import fit
from longrope_vllm.evaluation.ruler.vocabulary import Vocabulary, vocabulary

Haystack = Literal["repeat", "needle", "prose"]
Kind = Literal["words", "numbers", "uuids"]

_MAX_TOKENS = 128
_NEEDLE = "One of the special magic {kind} for {key} is: {value}."
_LINE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_ONE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{kind} afterwards.\n{context}\nWhat is the special magic {kind} for {query} mentioned in the provided text?"
    " The special magic {kind} for {query} mentioned in the provided text is"
)
_SEVERAL = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {kind} afterwards.\n{context}\nWhat are all the special magic {kind} for {query} mentioned in the provided "
    "text? The special magic {kind} for {query} mentioned in the provided text are"
)
_DEPTHS = [round(100 * step / 39) for step in range(40)]
"""Percentages of the prose at which a needle may stand."""
_NEEDLE_ORDER = 42
"""The seed by which RULER shuffles the needles of every prompt."""
_SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'”’)\]])) (?=[^a-z])")


@dataclass(frozen=True, kw_only=True)
class Needles:
    """What is hidden, in what, and how much of it is asked for."""

    haystack: Haystack
    keys: int = 1
    """Different keys that are hidden."""
    values: int = 1
    """Needles for each key."""
    asked: int = 1
    """Keys that are asked for."""
    key: Kind = "words"
    value: Kind = "numbers"

    def __post_init__(self) -> None:
        assert 1 <= self.asked <= self.keys, "only hidden keys are asked for"
        assert self.keys * self.values <= len(_DEPTHS), "every needle has a depth of its own"


def needle_prompt(needles: Needles, case: Case) -> Prompt:
    """The prompt of ``case``. Raises ``EvaluationError`` for no prose or too short a length."""
    words = case.sources.words if needles.haystack == "prose" else ()

    def build(size: int) -> Prompt:
        return hide(needles, size, rng=case.rng(), words=words, vocabulary=vocabulary())

    return fit(build, case, smallest=needles.keys * needles.values)


def hide(needles: Needles, size: int, *, rng: random.Random, words: Sequence[str], vocabulary: Vocabulary) -> Prompt:
    """A prompt with ``size`` lines, or as many of ``words``, which are repeated when there are fewer."""

    def needle(key: str, value: str) -> str:
        return _NEEDLE.format(kind=needles.value, key=key, value=value)

    hidden: list[tuple[str, list[str]]] = []
    for _ in range(needles.keys):
        key = _draw(needles.key, rng, vocabulary)
        hidden.append((key, [_draw(needles.value, rng, vocabulary) for _ in range(needles.values)]))
    facts = [needle(key, value) for key, values in hidden for value in values]
    random.Random(_NEEDLE_ORDER).shuffle(facts)

    if needles.haystack == "prose":
        repeated = [*words] * -(-size // len(words))
        context = _among_sentences(facts, split_sentences(" ".join(repeated[:size])), rng=rng)
    elif needles.haystack == "repeat":
        context = _among_lines(facts, [_LINE] * size, rng=rng)
    else:
        lines = [
            needle(_draw(needles.key, rng, vocabulary), _draw(needles.value, rng, vocabulary)) for _ in range(size)
        ]
        context = _among_lines(facts, lines, rng=rng)

    asked = [hidden[index] for index in rng.sample(range(needles.keys), needles.asked)]
    *others, last = [key for key, _ in asked]
    query = f"{', '.join(others)}, and {last}" if others else last
    expected = tuple(value for _, values in asked for value in values)
    if len(expected) > 1:
        text = _SEVERAL.format(kind=needles.value, context=context, query=query)
        return Prompt(text=text, expected=expected, max_tokens=_MAX_TOKENS)
    text = _ONE.format(kind=needles.value.removesuffix("s"), context=context, query=query)
    fact = needle(query, expected[0])
    depth = context.index(fact) / max(len(context) - len(fact), 1)
    return Prompt(text=text, expected=expected, max_tokens=_MAX_TOKENS, depth=depth)


def split_sentences(text: str) -> list[str]:
    """``text`` cut after a full stop, a question or an exclamation mark, unless a small letter follows."""
    return _SENTENCE_END.split(text)


def _draw(kind: Kind, rng: random.Random, vocabulary: Vocabulary) -> str:
    if kind == "words":
        return rng.choice(vocabulary.pairs)
    if kind == "numbers":
        return str(rng.randint(1_000_000, 9_999_999))
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _among_sentences(facts: Sequence[str], sentences: Sequence[str], *, rng: random.Random) -> str:
    depths = sorted(rng.sample(_DEPTHS, len(facts)))
    edges = [0, *(int(len(sentences) * (depth / 100)) for depth in depths), len(sentences)]
    parts: list[str] = []
    for number, (start, end) in enumerate(pairwise(edges)):
        parts += [" ".join(sentences[start:end]), *facts[number : number + 1]]
    return " ".join(parts)


def _among_lines(facts: Sequence[str], lines: list[str], *, rng: random.Random) -> str:
    places = sorted(rng.sample(range(len(lines)), len(facts)), reverse=True)
    for place, fact in zip(places, facts, strict=True):
        lines.insert(place, fact)
    return "\n".join(lines)
