"""``GET /health/ready`` and ``GET /health/progress``, beside vLLM's ``/health``: what a supervisor has to know.

Each answers 200 or 503 and needs no key. None says anything about requests.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.drain import RETRY_AFTER, engine_dead
from longrope_vllm.server.supervision import Supervision

router = APIRouter(tags=["longrope"], prefix="/health")


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The answer of a server that takes requests."""

    status: Literal["ready"] = "ready"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The answer of a server whose engine gets on; times in seconds."""

    silence_s: float
    """Since it was last seen to be idle or to move."""
    limit_s: float
    status: Literal["ok"] = "ok"


_UNHEALTHY: dict[int | str, dict[str, Any]] = {503: {"description": "It does not", "content": {"application/json": {}}}}


@router.get("/ready", responses=_UNHEALTHY)
async def ready(request: Request) -> Ready:
    """Does this server take requests: 503 while it starts, drains or ends."""
    phase = supervision_of(request).drain.phase
    if phase != "ready":
        raise ApiError(
            f"Expected a server that takes requests, found one that is {phase}.",
            status=503,
            code="not_ready",
            type="server_error",
            headers=RETRY_AFTER,
        )
    return Ready()


@router.get("/progress", responses=_UNHEALTHY)
async def progress(request: Request) -> Progress:
    """Does the engine get on: 503 when a process of it is stopped or gone, or it has stood still for too long."""
    supervision = supervision_of(request)
    if (reason := supervision.trouble()) is not None:
        raise engine_dead(reason)
    silence, limit = supervision.canary.silence(time.monotonic()), supervision.canary.limit
    if silence > limit:
        raise ApiError(
            f"Expected the engine to move within {limit:.0f} s, found it still for {silence:.0f} s: restart it.",
            status=503,
            code="engine_stuck",
            type="server_error",
            headers=RETRY_AFTER,
        )
    return Progress(silence_s=round(silence, 1), limit_s=limit)


def supervision_of(request: Request) -> Supervision:
    """The supervision of the app that serves ``request``."""
    supervision: Supervision = request.app.state.longrope_supervision
    return supervision
