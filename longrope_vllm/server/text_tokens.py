"""How many tokens a text of any size has, counted in pieces: in bounded memory, beside the event loop, to be cancelled.

In: a text of up to hundreds of megabytes. Out: exactly the number of tokens that the tokenizer makes of it in one go.
In one go a tokenizer of Hugging Face takes some 300 bytes a token, gigabytes for the text of a library, and lists of
millions of numbers hold up every other thread while they are made.

A text is cut between words. What a cut changes is seen in its surroundings: ``tokens(left) + tokens(right) -
tokens(left + right)`` of the characters next to it is what the pieces have too many, whether the cut parts a token or
the tokenizer begins every text with a mark of its own.
"""

import asyncio
import copy
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from tokenizers import Tokenizer

COUNTED = 64_000_000
"""Characters of the longest text that a client waits for. Two CPU cores count about four million a second."""
PIECE = 65_536
"""Characters of a piece, about: it goes on to the next end of a word."""
SURROUNDINGS = 256
"""Characters on each side of a cut by which its effect is known."""
_AT_ONCE = 32
"""Texts that the tokenizer gets in one call, and shares among the cores: eight pieces with their surroundings."""

_SEARCHED_AT_ONCE = 65_536

_END_OF_WORD = re.compile(r"(?<=\S)(?=\s\S)")


class TextCounter:
    """Counts for one tokenizer of vLLM, in a thread of its own that never keeps requests from being tokenized."""

    def __init__(self, tokenizer: Any, *, piece: int = PIECE, surroundings: int = SURROUNDINGS) -> None:
        self._tokenizer = tokenizer
        self._piece = piece
        self._surroundings = surroundings
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="longrope-count")
        self._rust = _own_copy(tokenizer)

    async def count(self, text: str, *, special_tokens: bool) -> int:
        """Number of tokens of ``text``, with those that the tokenizer puts around a text if ``special_tokens``.

        A cancelled caller ends the counting with the pieces at hand.
        """
        loop = asyncio.get_running_loop()
        if self._rust is None:
            return await loop.run_in_executor(self._thread, self._whole, text, special_tokens)
        total = self._rust.num_special_tokens_to_add(is_pair=False) if special_tokens else 0
        pieces = self._pieces(text)
        while batch := await loop.run_in_executor(self._thread, lambda: list(islice(pieces, _AT_ONCE))):
            total += await loop.run_in_executor(self._thread, self._together, self._rust, batch)
        return total

    def _pieces(self, text: str) -> Iterator[tuple[int, str]]:
        """What to count, and whether it counts as +1 or -1: pieces, and the surroundings of each cut."""
        start = 0
        while start < len(text):
            cut = _end_of_word(text, start + self._piece)
            yield 1, text[start:cut]
            if cut < len(text):
                left = text[max(0, cut - self._surroundings) : cut]
                right = text[cut : cut + self._surroundings]
                yield from ((-1, left), (-1, right), (1, left + right))
            start = cut

    @staticmethod
    def _together(rust: Tokenizer, batch: list[tuple[int, str]]) -> int:
        encoded = rust.encode_batch_fast([piece for _, piece in batch], add_special_tokens=False)
        return sum(sign * len(tokens) for (sign, _), tokens in zip(batch, encoded, strict=True))

    def _whole(self, text: str, special_tokens: bool) -> int:
        return len(self._tokenizer(text, truncation=False, add_special_tokens=special_tokens)["input_ids"])


def _end_of_word(text: str, start: int) -> int:
    """The first end of a word from ``start`` on, or that of the text.

    Text without blanks may be all that is left: a search holds up every other thread, so it is made in parts.
    """
    while start < len(text):
        if found := _END_OF_WORD.search(text, start, start + _SEARCHED_AT_ONCE):
            return found.start()
        start += _SEARCHED_AT_ONCE - 2  # an end of a word shows by two characters after it
    return len(text)


def _own_copy(tokenizer: Any) -> Tokenizer | None:
    """The tokenizer behind a fast one, for us alone and without the limits that requests set; None for other kinds."""
    rust = getattr(tokenizer, "_tokenizer", None)
    if not isinstance(rust, Tokenizer):
        return None
    own = copy.deepcopy(rust)
    own.no_truncation()
    own.no_padding()
    return own
