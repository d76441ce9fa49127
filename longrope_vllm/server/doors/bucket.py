"""A token bucket: so much a minute, and a minute's worth at once.

Kept as the time at which it will be full again (the generic cell rate algorithm): one number, no timer. What costs more
than the bucket holds is let in when the bucket is full, and leaves a debt that is paid back before anything else: no
request is impossible for ever, and the average stays. So in any time *t* no more is admitted than what flows in during
*t*, plus the bucket or the largest single cost, whichever is more.
"""

import math
import time
from collections.abc import Callable

_MINUTE = 60.0
_TOLERANCE = 1e-6
"""Seconds by which the clock may round."""


class Bucket:
    """``clock`` counts seconds. The size is an argument of every call: it may be changed while the server runs."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at = -math.inf

    def wait(self, cost: int, *, per_minute: int) -> float:
        """Seconds until ``cost`` would be let in if nothing else came; 0 for now."""
        left_over = per_minute - min(cost, per_minute)
        ready = self._full_at - left_over * _MINUTE / per_minute
        seconds = ready - self._clock()
        return seconds if seconds > _TOLERANCE else 0.0

    def charge(self, cost: int, *, per_minute: int) -> None:
        """Take ``cost``, into debt if there is less."""
        self._full_at = max(self._full_at, self._clock()) + cost * _MINUTE / per_minute

    def remaining(self, *, per_minute: int) -> int:
        """What is left, 0 in debt."""
        return max(0, min(per_minute, math.floor(per_minute * (1 - self.full_in() / _MINUTE) + _TOLERANCE)))

    def full_in(self) -> float:
        """Seconds until it is full if nothing is taken."""
        return max(0.0, self._full_at - self._clock())
