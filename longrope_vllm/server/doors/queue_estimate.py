"""How long a full server will be busy: the prompt tokens that wait, over the pace of the prefills seen lately.

vLLM refuses with 503 where ``--max-num-queued-tokens`` or ``--max-num-queued-reqs`` says so, and does not say for how
long. Its count takes a prompt for whole until its first token; prefills side by side are each counted with all of their
time. Both err towards a longer wait.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

from longrope_vllm.plugin.followed import EngineRequest

UNKNOWN = 10.0
"""Seconds that are told before any prefill was seen."""
_LONGEST = 3600.0
_SEEN = 32


class QueueEstimate:
    """Of the engine client ``engine``, None for a server that only renders."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._prefills: deque[tuple[int, float]] = deque(maxlen=_SEEN)

    def observe(self, requests: Iterable[EngineRequest]) -> None:
        """Learn the pace from requests that have ended."""
        for request in requests:
            computed = request.prompt_tokens - request.cached_tokens
            if request.prefill_seconds and computed > 0:
                self._prefills.append((computed, request.prefill_seconds))

    def queued_tokens(self) -> int:
        """Prompt tokens whose first output has not come."""
        processor = getattr(self._engine, "output_processor", None)
        count = getattr(processor, "get_num_queued_tokens", None)  # vLLM 0.32 and later
        return 0 if count is None else int(count())

    def seconds(self) -> float:
        """Until they are computed, at least one second and at most an hour."""
        if not self._prefills:
            return UNKNOWN
        tokens, seconds = map(sum, zip(*self._prefills, strict=True))
        return min(_LONGEST, max(1.0, self.queued_tokens() * seconds / tokens))
