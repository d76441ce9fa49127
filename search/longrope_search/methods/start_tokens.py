"""The number of first tokens that keep the model's own rope (LongRoPE, arXiv 2402.13753, section 3.2 and table 3)."""

from longrope_search.methods.engine import Batch, Engine
from longrope_search.space import Point, Space

START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
"""The published choices."""


def start_tokens(space: Space, point: Point, choices: tuple[int, ...] = START_TOKENS) -> Engine:
    """Score ``point`` with each choice below the target; nothing about the point changes."""
    candidates = [space.candidate(point, start_tokens=choice) for choice in choices if choice < space.length]
    yield Batch(candidates=candidates, keep=1, title="start tokens")
    return point
