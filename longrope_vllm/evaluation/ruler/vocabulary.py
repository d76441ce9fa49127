"""The words of RULER's tasks: those of the package wonderwords, in the orders in which the tasks draw them.

RULER names needles by an adjective and a noun, ``early-bird``, drawn from the sorted list of all six million pairs.
That list takes half a gigabyte and ten seconds; ``WordPairs`` is the same list, without making it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Self, overload

from longrope_vllm.extras import require

_ORDER = 42
"""The seed by which RULER shuffles the list of single words, once."""


class WordPairs(Sequence[str]):
    """All ``adjective-noun``, sorted, as a sequence that is computed when it is asked for.

    Pairs come adjective by adjective, but for those such as ``wide`` and ``wide-eyed``, whose pairs are mixed:
    ``wide-drum``, ``wide-eyed-drum``, ``wide-zoo``. Those are families, and only they are written out.
    """

    def __init__(self, adjectives: Sequence[str], nouns: Sequence[str]) -> None:
        self._nouns = sorted(set(nouns))
        self._adjectives = sorted(set(adjectives), key=lambda word: f"{word}-")
        heads: list[str] = []
        for word in self._adjectives:
            heads.append(heads[-1] if heads and word.startswith(f"{heads[-1]}-") else word)
        self._families: dict[int, list[str]] = {}
        for _, group in groupby(range(len(heads)), key=heads.__getitem__):
            members = list(group)
            if len(members) > 1:
                pairs = sorted(f"{self._adjectives[slot]}-{noun}" for slot in members for noun in self._nouns)
                for first, slot in enumerate(members):
                    self._families[slot] = pairs[first * len(self._nouns) : (first + 1) * len(self._nouns)]

    def __len__(self) -> int:
        return len(self._adjectives) * len(self._nouns)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        slot, position = divmod(index % len(self), len(self._nouns))
        if slot in self._families:
            return self._families[slot][position]
        return f"{self._adjectives[slot]}-{self._nouns[position]}"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Words for needles and for lists."""

    pairs: WordPairs
    listed: tuple[str, ...]
    """Single words of every kind, shuffled once and for all."""

    @classmethod
    def of(cls, *, nouns: Sequence[str], adjectives: Sequence[str], verbs: Sequence[str]) -> Self:
        """The vocabulary made of these words."""
        listed = sorted({*nouns, *adjectives, *verbs})
        random.Random(_ORDER).shuffle(listed)
        return cls(pairs=WordPairs(adjectives, nouns), listed=tuple(listed))


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary of RULER. Raises ``MissingExtraError`` without wonderwords."""
    # The package has no other way to its whole lists; RULER and lm-eval read the same attribute.
    words = require("wonderwords", "eval").RandomWord()._categories
    return Vocabulary.of(nouns=words["noun"], adjectives=words["adjective"], verbs=words["verb"])
