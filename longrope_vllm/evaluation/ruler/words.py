"""RULER's two aggregation tasks (arXiv 2404.06654, section 3.3): common words of a list, frequent ones of a text.

In: a number of words and a stream of chance. Out: a prompt. Strings and the order of the draws are those of lm-eval
0.4.13, but for three things. The list is shuffled by the stream of the prompt, and not by one that goes through all of
them. Both tasks leave room for the answer. A list of more words than wonderwords has (from about 150k tokens) goes on
with pairs of them, where RULER goes over to a larger dictionary and lm-eval stops growing.
"""

import math
import random
import string
from dataclasses import dataclass
from typing import Self

from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler.case import Case
from longrope_vllm.evaluation.ruler.sizing import fit
from longrope_vllm.evaluation.ruler.vocabulary import Vocabulary, vocabulary

_COMMON = 10
_LIST_MAX_TOKENS = 120
_LIST = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list?\n\n"
    "Answer: The top 10 words that appear most often in the list are:"
)
_TEXT_MAX_TOKENS = 50
_TEXT = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
    "three most frequently appeared words in the above coded text? Answer: According to the coded text above, the "
    "three most frequently appeared words are:"
)
_LETTERS = 6
_TOKENS_PER_CODED_WORD = 50
"""Tokens of the length for each different coded word."""
_FEWEST_CODED_WORDS = 5
_SMALLEST_TEXT = 64
"""Words from which on the four most frequent ones appear a different number of times."""
_SHUFFLE = 42
"""The seed by which RULER shuffles the coded words of every prompt."""
_ZETA_2 = math.pi**2 / 6


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """How often a word stands in the list."""

    common: int
    uncommon: int

    @classmethod
    def at(cls, length: int) -> Self:
        """What RULER takes for a prompt of ``length`` tokens."""
        return cls(common=6, uncommon=1) if length < 4096 else cls(common=30, uncommon=3)


def common_words_prompt(case: Case) -> Prompt:
    """The list of ``case``. Raises ``EvaluationError`` for too short a length."""

    def build(size: int) -> Prompt:
        return listed(size, Repeats.at(case.length), rng=case.rng(), vocabulary=vocabulary())

    return fit(build, case, smallest=_COMMON + 1)


def listed(size: int, repeats: Repeats, *, rng: random.Random, vocabulary: Vocabulary) -> Prompt:
    """A numbered list of ``size`` different words, ten of which stand more often in it than the others."""
    drawn = rng.sample(vocabulary.listed, min(size, len(vocabulary.listed)))
    if size > len(drawn):
        # A few single words, such as half-sister, are pairs as well.
        known = {word for word in drawn if "-" in word}
        pairs = rng.sample(vocabulary.pairs, size - len(drawn) + len(known))
        drawn = [*drawn, *(pair for pair in pairs if pair not in known)][:size]
        rng.shuffle(drawn)
    common = drawn[:_COMMON]
    words = common * repeats.common + drawn[_COMMON:] * repeats.uncommon
    rng.shuffle(words)
    context = " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))
    return Prompt(text=_LIST.format(context=context), expected=tuple(common), max_tokens=_LIST_MAX_TOKENS)


def frequent_words_prompt(case: Case) -> Prompt:
    """The coded text of ``case``. Raises ``EvaluationError`` for too short a length."""
    distinct = max(case.length // _TOKENS_PER_CODED_WORD, _FEWEST_CODED_WORDS)

    def build(size: int) -> Prompt:
        return coded(size, distinct, rng=case.rng())

    return fit(build, case, smallest=_SMALLEST_TEXT)


def coded(size: int, distinct: int, *, rng: random.Random) -> Prompt:
    """About ``size`` made-up words out of ``distinct``, the one of rank k a share ``k^-2 / ζ(2)`` of them.

    The most frequent one is dots, which are not asked for; the next three are.
    """
    found: set[str] = set()
    while len(found) < distinct:
        found.add("".join(rng.choices(string.ascii_lowercase, k=_LETTERS)))
    ranked = sorted(found)
    random.Random(_SHUFFLE).shuffle(ranked)
    ranked[0] = "..."
    words = [word for rank, word in enumerate(ranked, start=1) for _ in range(int(size * rank**-2.0 / _ZETA_2))]
    random.Random(_SHUFFLE).shuffle(words)
    text = _TEXT.format(context=" ".join(words))
    return Prompt(text=text, expected=tuple(ranked[1:4]), max_tokens=_TEXT_MAX_TOKENS)
