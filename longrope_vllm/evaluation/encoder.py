"""From text to the token ids a model reads, the same for every back end: both are sent ids, never text."""

from collections.abc import Callable
from typing import Any

from longrope_vllm.errors import EvaluationError

_STEPS = 40
"""Texts that are tried for one prompt, at most; a handful is the rule."""


class Encoder:
    """A tokenizer, and whether questions go through its chat template."""

    def __init__(self, tokenizer: Any, *, chat: bool = False) -> None:
        """Raises ``EvaluationError`` when ``chat`` is asked of a tokenizer without a template."""
        if chat and not tokenizer.chat_template:
            raise EvaluationError("Expected a tokenizer with a chat template for --chat, found none: leave --chat out.")
        self.tokenizer = tokenizer
        self.chat = chat

    @property
    def bos(self) -> list[int]:
        """What the tokenizer puts in front of every text: a beginning of sequence, or nothing."""
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and self.tokenizer("a")["input_ids"][:1] == [bos] else []

    def encode(self, text: str) -> list[int]:
        """Ids of a question, with what the tokenizer or its chat template puts around it."""
        if self.chat:
            message = [{"role": "user", "content": text}]
            found = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)
            return list(found["input_ids"])
        return list(self.tokenizer(text, verbose=False)["input_ids"])

    def count(self, text: str) -> int:
        """Tokens of a question."""
        return len(self.encode(text))


def fit(build: Callable[[int], str], count: Callable[[str], int], *, budget: int) -> str:
    """The text of exactly ``budget`` tokens, or where there is none of as many as possible below.

    ``build`` makes a text with a filling of so many characters. Tokens grow almost evenly with characters, so a secant
    needs a handful of steps, however long the text is. Raises ``EvaluationError`` when even no filling is too long.
    """
    text = build(0)
    least = count(text)
    if least > budget:
        raise EvaluationError(
            f"Expected a length with room for the question, found a budget of {budget} tokens for {least}: ask for "
            "longer sequences."
        )
    best, best_tokens, best_size = text, least, 0
    over: int | None = None  # the smallest filling that was too long
    rate = 4.0  # characters a token
    for _ in range(_STEPS):
        size = best_size + max(1, round((budget - best_tokens) * rate))
        if over is not None:
            size = min(size, over - 1)
        if best_tokens == budget or size <= best_size:
            break
        text = build(size)
        tokens = count(text)
        if tokens > best_tokens:
            rate = (size - best_size) / (tokens - best_tokens)
        if tokens > budget:
            over = size
        else:
            best, best_tokens, best_size = text, tokens, size
    return best
