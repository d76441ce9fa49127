"""Passkey retrieval: a number in the middle of repeated sentences, with the prompt of the published evaluations.

Source: Landmark attention (arXiv 2305.16300), whose prompt YaRN (arXiv 2309.00071) and LongRoPE (arXiv 2402.13753) use.
There the length is a guess from characters and the depth is random; here the tokenizer counts, and the depth is given.
"""

import random
from collections.abc import Callable

from longrope_vllm.evaluation.encoder import fit
from longrope_vllm.evaluation.prompt import Prompt

MAX_TOKENS = 10
_TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
_FILLING = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_QUESTION = "What is the pass key? The pass key is"
_LARGEST = 50_000


def passkey_text(key: int, *, before: int, after: int) -> str:
    """The published prompt with ``before`` and ``after`` characters of filling around the pass key."""
    filling = " ".join([_FILLING] * (max(before, after) // len(_FILLING) + 1))
    return "\n".join(
        [
            _TASK,
            filling[:before],
            f"The pass key is {key}. Remember it. {key} is the pass key.",
            filling[:after],
            _QUESTION,
        ]
    )


def passkey_prompt(count: Callable[[str], int], *, length: int, depth: float, draw: random.Random) -> Prompt:
    """A question of ``length`` tokens with its answer, the pass key at ``depth`` from 0 (the beginning) to 1.

    Raises ``EvaluationError`` when ``length`` has no room for the question.
    """
    key = draw.randint(1, _LARGEST)

    def build(size: int) -> str:
        before = round(size * depth)
        return passkey_text(key, before=before, after=size - before)

    return Prompt(
        text=fit(build, count, budget=length - MAX_TOKENS),
        expected=(str(key),),
        max_tokens=MAX_TOKENS,
        depth=depth,
        match="number",
    )
