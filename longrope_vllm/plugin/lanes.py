"""Two lanes for prefills, short and long: whose step is next, and how much of a long prompt goes into one step.

A step of the engine cannot be interrupted, and the tokens of a long prompt cost more the deeper they stand. So the step
is the unit that is shared out: prefills of one lane at a time, all generating requests in every step, and a long
prompt's part of a step sized by time. Seconds and tokens; nothing here knows vLLM.

``Turns`` is a deficit counter between the two lanes. The short lane goes first, and the long lane is owed ``SHARE`` of
the time that passes meanwhile. With steps of at most ``D`` seconds, of which ``k`` are decided before the first of them
is known to have ended (1; 2 with asynchronous scheduling), for as long as both lanes have work that can run:

- the long lane gets at least ``SHARE * (t - BURST - k * D)`` of any ``t`` seconds, and waits ``BURST + k * D`` at most;
- the short lane never waits longer than ``k * D * SHARE / (1 - SHARE)`` seconds and ``k`` steps of the long one.

A lane whose turn is lost (no memory, no slot) hands the next 1, 2, 4 and then 8 turns to the other one, or fewer if
somebody comes or leaves, so the engine does not idle. A long prompt that finds no memory for ``PATIENCE`` seconds shuts
the short lane until it is in.
"""

from typing import Literal

Lane = Literal["short", "long"]

SHARE = 0.25
"""Of the time, what the long lane gets while the short lane is never empty."""
BURST = 1.0
"""Seconds for which short requests may hold up long ones in one piece."""
PATIENCE = 30.0
"""Seconds for which a long request at the head of its lane may find no memory while short ones pass it."""
MOST_PASSES = 8
"""Turns of a lane that can do nothing before it is tried again."""

LEAST_CHUNK = 256
"""Tokens of a long prompt in any step, and in its first one, whose cost is not known: a step reads the weights and all
keys and values once, however few they are for."""
CHUNK_UNIT = 32
"""Tokens of which chunks are multiples."""


class Turns:
    """Whose prefills are in the next step. Times are the caller's; begin anew when the long lane was empty."""

    def __init__(self) -> None:
        self._owed = 0.0
        self._passes: dict[Lane, int] = {"short": 0, "long": 0}
        self._misses: dict[Lane, int] = {"short": 0, "long": 0}
        self._refused_since: float | None = None

    def next(self, *, short: bool, long: bool) -> Lane:
        """The lane of the next step, given which of them have prefills. Call it once a step, with work in one."""
        if not (short and long):
            return "short" if short else "long"
        first: Lane = "long" if self._owed >= SHARE * BURST else "short"
        second: Lane = "short" if first == "long" else "long"
        if self._passes[first] and not self._passes[second]:
            self._passes[first] -= 1
            return second
        return first

    def served(self, lane: Lane, seconds: float, *, contested: bool) -> None:
        """Count a step that has ended; ``contested`` says that the other lane had prefills too."""
        if lane == "long":
            self._owed = max(0.0, self._owed - (1 - SHARE) * seconds)
        elif contested and not self._misses["long"]:  # what it could not use is not owed to it
            self._owed += SHARE * seconds

    def tried(self, lane: Lane, now: float, *, used: bool) -> None:
        """Whether ``lane`` had anything in the step that it was given, at ``now``."""
        self._misses[lane] = 0 if used else self._misses[lane] + 1
        self._passes[lane] = 0 if used else min(2 ** (self._misses[lane] - 1), MOST_PASSES)
        if lane == "long":
            self._refused_since = None if used else self._refused_since or now

    def changed(self) -> None:
        """Somebody came or left: what could not be done may be possible now."""
        self._passes = {"short": 0, "long": 0}

    def shut(self, now: float) -> bool:
        """Whether waiting short requests have to stay where they are, so that memory becomes free for a long one."""
        return self._refused_since is not None and now - self._refused_since >= PATIENCE


class Chunk:
    """Tokens of one long prompt in a step, so that the step takes ``seconds``: measured, since no model is known."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._request: str | None = None
        self._tokens = LEAST_CHUNK

    def tokens(self, request: str) -> int:
        """For the next step of ``request``; another one than before begins small, for it may stand anywhere."""
        if request != self._request:
            self._request, self._tokens = request, LEAST_CHUNK
        return self._tokens

    def measured(self, request: str, tokens: int, seconds: float) -> None:
        """A step with ``tokens`` of ``request`` took ``seconds``; the chunk grows to at most their double."""
        if request != self._request or tokens <= 0:
            return
        fitting = tokens * self._seconds / max(seconds, 1e-6)
        whole = int(min(fitting, 2 * tokens)) // CHUNK_UNIT * CHUNK_UNIT
        self._tokens = max(LEAST_CHUNK, whole)
