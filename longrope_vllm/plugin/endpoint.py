"""HTTP routes of the plugin: ``GET /v1/longrope`` and ``GET /v1/longrope/requests/{id}``.

A vLLM endpoint plugin (vLLM 0.27 and later); like every one of them it is loaded only when ``VLLM_PLUGINS`` names it,
which ``longrope serve`` does.
"""

from argparse import Namespace
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request

from longrope_vllm.plugin.tiers import ServedTiers

router = APIRouter(prefix="/v1/longrope", tags=["longrope"])


class LongRopeEndpoint:
    """Entry point of the group ``vllm.endpoint_plugins``."""

    name = "longrope"
    required_tasks = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes to vLLM's app."""
        app.include_router(router)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Keep the engine client (None on a render-only server) for the routes."""
        state.longrope_engine = engine_client


@router.get("")
async def tiers(request: Request) -> dict[str, Any]:
    """Tiers in force, shortest first; an empty list for a model without a longrope block."""
    engine = request.app.state.longrope_engine
    served = None if engine is None else ServedTiers.from_vllm_config(engine.vllm_config)
    if served is None:
        return {"tiers": []}
    return {
        "tiers": [
            {
                "max_length": tier.max_length,
                "plain": tier.is_plain,
                "attention_factor": tier.attention_factor,
                "identity": served.identity(index),
            }
            for index, tier in enumerate(served.tiers)
        ]
    }


@router.get("/requests/{request_id}")
async def request_tier(request_id: str, request: Request) -> dict[str, int]:
    """Tier, tokens and crossings of one request, by the id of its response; 404 once it is forgotten.

    Under data parallelism only the first engine is asked.
    """
    engine = request.app.state.longrope_engine
    served = None if engine is None else ServedTiers.from_vllm_config(engine.vllm_config)
    status = None
    if served is not None and served.last:
        status = await engine.engine_core.call_utility_async("longrope_request", request_id)
    if status is None:
        raise HTTPException(404, f"No request {request_id!r} is running or finished lately in a tier of this server.")
    found: dict[str, int] = status
    return found
