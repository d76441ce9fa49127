"""What a server is asked and what it answers, in token ids, so that every length is exact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt to continue greedily by exactly ``max_tokens`` tokens."""

    prompt: tuple[int, ...]
    max_tokens: int
    tier: int | None = None
    """Ask to start in the tier of this ``max_length``; None leaves it to the length of the prompt."""
    salt: str | None = None
    """Key of the prefix cache. Questions with one salt share blocks; None shares with everybody."""

    @property
    def tokens(self) -> int:
        """Prompt and answer together."""
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True, kw_only=True)
class Step:
    """One generated token with the log-probabilities (natural) of the most likely tokens, the chosen one among them."""

    token: int
    top: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back."""

    id: str
    steps: tuple[Step, ...]
    text: str
    cached_tokens: int | None
    """Prompt tokens taken from the prefix cache; None when the server does not tell."""
    started: float
    finished: float
    """Seconds on this machine's monotonic clock."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The generated tokens."""
        return tuple(step.token for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class Served:
    """How the server says it served a request. Lengths in tokens."""

    tier_max_length: int
    tokens: int
    crossings: int


@dataclass(frozen=True, kw_only=True)
class TierInForce:
    """One tier as the server states it."""

    max_length: int
    plain: bool
    """The unscaled rope."""
    own: bool
    """The rope that the checkpoint was trained with; a plain one, for most."""
    identity: str
    """Hash of the rotation."""


class Asked(Protocol):
    """A server as the checks see it. Every method raises ``ServerError`` when it is not answered."""

    async def ask(self, question: Question) -> Answer:
        """Answer one question."""

    async def served(self, answer: Answer) -> Served:
        """How the request behind ``answer`` was served."""
