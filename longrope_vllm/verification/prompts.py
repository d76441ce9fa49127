"""Prompts of exact lengths that read like text: pieces of Python's language reference in a seeded random order."""

import random
from dataclasses import dataclass

from longrope_vllm.demo.document import reference_text
from longrope_vllm.verification.client import Server

SOURCE_CHARACTERS = 60_000
PIECE = 64
"""Tokens of one piece; a sentence or two."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A source of prompts for one tokenizer."""

    beginning: tuple[int, ...]
    """What the tokenizer puts in front of every text."""
    text: tuple[int, ...]
    seed: int

    def prompt(self, name: str, length: int) -> tuple[int, ...]:
        """``length`` tokens; two names share nothing but the beginning."""
        chance = random.Random(f"{self.seed} {name} {length}")
        tokens = list(self.beginning)
        while len(tokens) < length:
            start = chance.randrange(max(1, len(self.text) - PIECE))
            tokens += self.text[start : start + PIECE]
        return tuple(tokens[:length])


async def prompts_of(server: Server, *, seed: int) -> Prompts:
    """Prompts in the tokens of ``server``."""
    source = reference_text()[:SOURCE_CHARACTERS]
    text = await server.tokenize(source, special=False)
    sample = source[:100]
    bare, full = await server.tokenize(sample, special=False), await server.tokenize(sample, special=True)
    starts = next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)
    return Prompts(beginning=full[:starts], text=text, seed=seed)
