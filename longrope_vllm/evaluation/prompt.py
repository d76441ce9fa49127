"""A question with a known answer, as text, and how an answer is scored."""

from dataclasses import dataclass
from typing import Literal

Match = Literal["all", "any"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model reads, and what its answer should hold."""

    text: str
    """All of the prompt, with the beginning of the answer at its end."""
    expected: tuple[str, ...]
    max_tokens: int
    """Room for the answer, in tokens."""
    match: Match = "all"
    """Whether every expected string counts, or one of them is enough."""
    depth: float | None = None
    """Where the needle stands, from 0 (the beginning) to 1, for a prompt with one."""

    def score(self, answer: str) -> float:
        """Share of ``expected`` that ``answer`` holds, whatever the case; for ``any`` 1 when it holds one.

        RULER's string match (arXiv 2404.06654).
        """
        found = [wanted.lower() in answer.lower() for wanted in self.expected]
        return float(any(found)) if self.match == "any" else sum(found) / len(found)
