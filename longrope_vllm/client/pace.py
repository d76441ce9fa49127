"""How fast a prefill goes and how long it will take, from what the server tells of it."""

from collections import deque

from longrope_vllm.client.events import Progress

WINDOW = 30.0
"""Seconds whose pace is taken for what follows: a prefill slows down as it goes, so its beginning says too little."""


class Pace:
    """Tokens a second, and seconds left, of one prefill, by the server's own clock."""

    def __init__(self) -> None:
        self._told: deque[Progress] = deque()

    def add(self, progress: Progress) -> None:
        """The next news. Where it fell back (preempted, or a longer tier), the past counts no more."""
        if self._told and progress.processed < self._told[-1].processed:
            self._told.clear()
        self._told.append(progress)
        while len(self._told) > 2 and progress.seconds - self._told[1].seconds >= WINDOW:
            self._told.popleft()

    @property
    def rate(self) -> float | None:
        """Tokens a second over the last ``WINDOW``, None while that is not known."""
        if len(self._told) < 2:
            return None
        first, last = self._told[0], self._told[-1]
        if last.seconds <= first.seconds or last.processed <= first.processed:
            return None
        return (last.processed - first.processed) / (last.seconds - first.seconds)

    @property
    def left(self) -> float | None:
        """Seconds, None while they are not known."""
        rate = self.rate
        return None if rate is None else (self._told[-1].total - self._told[-1].processed) / rate
