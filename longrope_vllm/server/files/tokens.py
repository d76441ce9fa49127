"""Tokens of a document, counted in a thread by a tokenizer of our own: the server's is used by other threads."""

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol


class Tokenizer(Protocol):
    """What is asked of vLLM's tokenizers."""

    @property
    def max_chars_per_token(self) -> int:
        """Characters of the longest token."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokens of ``text``."""


class TokenCounter:
    """Counts with a copy of ``tokenizer``; ``name`` tells it from others. One text at a time, to bound the memory.

    Make it before the server serves: a tokenizer that is in use must not be copied.
    """

    def __init__(self, tokenizer: Tokenizer, *, name: str) -> None:
        self.name = name
        self._tokenizer = copy.deepcopy(tokenizer)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="longrope-tokens")

    async def count(self, text: str, *, limit: int) -> int | None:
        """Tokens of ``text`` without special ones; None if it is surely over ``limit`` by its characters alone.

        Counting takes a second and 0.2 GB for a million tokens, so what no request can hold is not counted.
        """
        if len(text) > limit * self._tokenizer.max_chars_per_token:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._count, text)

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))
