"""Which tier served a request: kept by the scheduler for a while, asked for through the engine core.

Adds the method ``longrope_request`` to ``EngineCore``, whose public methods the API server calls by name.
"""

import re
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import Any

KEPT = 4096
"""Finished requests that can still be asked for."""


@dataclass(frozen=True, kw_only=True)
class RequestStatus:
    """How one request is or was served. Lengths in tokens."""

    tier: int
    tier_max_length: int
    tokens: int
    """Prompt and output so far."""
    crossings: int
    """Times it outgrew a tier and was prefilled again."""


class ServedRequests:
    """The last ``KEPT`` finished requests by id."""

    def __init__(self) -> None:
        self._finished: OrderedDict[str, RequestStatus] = OrderedDict()

    def add(self, request_id: str, status: RequestStatus) -> None:
        """Remember a finished request and forget the oldest past ``KEPT``."""
        self._finished[request_id] = status
        while len(self._finished) > KEPT:
            self._finished.popitem(last=False)

    def find(self, request_id: str) -> RequestStatus | None:
        """By the id in the response."""
        for known, status in reversed(self._finished.items()):
            if same_request(known, request_id):
                return status
        return None


def same_request(engine_id: str, response_id: str) -> bool:
    """True when ``engine_id`` is of the response ``response_id``.

    vLLM makes ``[CHOICE_]RESPONSE[-PROMPT][-RANDOM]`` of it: a choice number with n > 1, a prompt number in
    completions, eight random hexadecimal digits. Of several choices or prompts any one matches.
    """
    within = re.sub(r"^\d+_", "", engine_id)
    bare = re.sub(r"-[0-9a-f]{8}$", "", within)
    return response_id in (within, bare, re.sub(r"-\d+$", "", bare))


def add_engine_method() -> None:
    """Give ``EngineCore`` of this process the method that the status route calls."""
    from vllm.v1.engine.core import EngineCore

    def longrope_request(self: Any, request_id: str) -> dict[str, int] | None:
        status: RequestStatus | None = self.scheduler.longrope_request(request_id)
        return None if status is None else asdict(status)

    EngineCore.longrope_request = longrope_request
