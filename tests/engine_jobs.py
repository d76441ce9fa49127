"""Words for tests with a real engine: prompts, requests, plugin sets, tolerances, and how answers are compared."""

import random
from collections.abc import Callable
from typing import Any

from tiny_models import VOCABULARY

STOCK = ""
"""``VLLM_PLUGINS`` of a vLLM without this plugin."""
LONGROPE = "longrope"

SHORT_TOLERANCE = 5e-5
"""Log-probabilities in float32 between equal rows: only the shapes of the batches differ."""
LONG_TOLERANCE = 1e-3
"""The same where stock vLLM computed its table in float32 and ours comes from float64."""

Results = dict[str, dict[str, Any]]
RunEngine = Callable[..., Results]


def prompt(length: int, seed: int = 0) -> list[int]:
    """``length`` random tokens; two seeds share no prefix."""
    return random.Random(f"{seed}-{length}").choices(range(3, VOCABULARY), k=length)


def request(name: str, tokens: list[int], *, max_tokens: int, arrive: int = 0) -> dict[str, Any]:
    """One entry of an engine job."""
    return {"id": name, "prompt": tokens, "max_tokens": max_tokens, "arrive": arrive}


def largest_difference(found: list[dict[str, float]], expected: list[dict[str, float]]) -> float:
    """Largest difference of a log-probability over all positions, for the tokens both list; infinite if none."""
    differences = [
        abs(ours[token] - theirs[token])
        for ours, theirs in zip(found, expected, strict=True)
        for token in ours.keys() & theirs.keys()
    ]
    return max(differences, default=float("inf"))
