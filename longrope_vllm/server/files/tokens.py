"""Tokens of a document in a prompt, counted once, when it is uploaded."""

from dataclasses import dataclass

from longrope_vllm.server.text_tokens import COUNTED, TextCounter


@dataclass(frozen=True, kw_only=True)
class TokenCounter:
    """Counts with ``texts``, whose tokenizer goes by ``name``."""

    name: str
    texts: TextCounter

    async def count(self, text: str) -> int | None:
        """Tokens of ``text`` without special ones; None past ``COUNTED`` characters."""
        return None if len(text) > COUNTED else await self.texts.count(text, special_tokens=False)
