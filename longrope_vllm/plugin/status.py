"""Which tier served a request: kept by the scheduler for a while, asked for through the engine core.

Adds the method ``longrope_request`` to ``EngineCore``, whose public methods the API server calls by name.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
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
    reprefilled_tokens: int = 0
    """Tokens whose keys and values that dropped; what the prefix cache still has need not be computed again."""


class ServedRequests:
    """The last ``KEPT`` finished requests by id."""

    def __init__(self) -> None:
        self._finished: OrderedDict[str, RequestStatus] = OrderedDict()
        self._of_response: dict[str, list[str]] = {}

    def add(self, request_id: str, status: RequestStatus) -> None:
        """Remember a finished request by its id in the engine and forget the oldest past ``KEPT``."""
        if request_id in self._finished:
            self._forget(request_id)
        self._finished[request_id] = status
        for name in response_ids(request_id):
            self._of_response.setdefault(name, []).append(request_id)
        while len(self._finished) > KEPT:
            self._forget(next(iter(self._finished)))

    def find(self, response_id: str) -> RequestStatus | None:
        """By the id in the response; several choices or prompts of one response are taken together."""
        found = [self._finished[request_id] for request_id in self._of_response.get(response_id, ())]
        return together(found) if found else None

    def _forget(self, request_id: str) -> None:
        del self._finished[request_id]
        for name in response_ids(request_id):
            left = [other for other in self._of_response[name] if other != request_id]
            if left:
                self._of_response[name] = left
            else:
                del self._of_response[name]


def together(statuses: Sequence[RequestStatus]) -> RequestStatus:
    """One status for a response of several sequences: the longest tier, and the sums."""
    longest = max(statuses, key=lambda status: status.tier)
    return RequestStatus(
        tier=longest.tier,
        tier_max_length=longest.tier_max_length,
        tokens=sum(status.tokens for status in statuses),
        crossings=sum(status.crossings for status in statuses),
        reprefilled_tokens=sum(status.reprefilled_tokens for status in statuses),
    )


def response_ids(engine_id: str) -> frozenset[str]:
    """The ids of responses that ``engine_id`` can belong to.

    vLLM makes ``[CHOICE_]RESPONSE[-PROMPT][_TURN][-RANDOM]`` of the id of a response: a choice number with n > 1, a
    prompt number in completions, a turn in responses, eight random hexadecimal digits. A chat has neither prompt number
    nor turn: what its id ends with is the client's own.
    """
    within = base_id(engine_id)
    bare = re.sub(r"-[0-9a-f]{8}$", "", within)
    numbered = not bare.startswith("chatcmpl-")
    return frozenset((within, bare, re.sub(r"[-_]\d+$", "", bare) if numbered else bare))


def base_id(engine_id: str) -> str:
    """``engine_id`` without the number of a choice: what all choices of one prompt have in common."""
    return re.sub(r"^\d+_", "", engine_id)


def add_engine_method() -> None:
    """Give ``EngineCore`` of this process the method that the status route calls."""
    from vllm.v1.engine.core import EngineCore

    def longrope_request(self: Any, request_id: str) -> dict[str, int] | None:
        status: RequestStatus | None = self.scheduler.longrope_request(request_id)
        return None if status is None else asdict(status)

    EngineCore.longrope_request = longrope_request
