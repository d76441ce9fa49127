"""A question with a known answer, as text, and how an answer is scored."""

import re
from dataclasses import dataclass
from typing import Literal

Match = Literal["all", "any", "number"]
"""How expected strings are looked for: every one counts, one of them is enough, or the first number is the answer."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model reads, and what its answer should hold."""

    text: str
    """All of the prompt, with the beginning of the answer at its end."""
    expected: tuple[str, ...]
    max_tokens: int
    """Room for the answer, in tokens."""
    match: Match = "all"
    depth: float | None = None
    """Where the needle stands, from 0 (the beginning) to 1, for a prompt with one."""

    def score(self, answer: str) -> float:
        """Share of ``expected`` that ``answer`` holds, whatever the case; for ``any`` 1 when it holds one.

        RULER's string match (arXiv 2404.06654). For ``number`` 1 when the first number in ``answer`` is the expected
        one, as the published passkey evaluations have it: the prompt repeats numbers, and so might a lost model.
        """
        if self.match == "number":
            numbers = [number.replace(",", "") for number in re.findall(r"\d+(?:,\d{3})*", answer)]
            return float(numbers[:1] == list(self.expected))
        found = [wanted.lower() in answer.lower() for wanted in self.expected]
        return float(any(found)) if self.match == "any" else sum(found) / len(found)
