"""HTTP routes of the plugin: ``GET /v1/longrope`` and ``GET /v1/requests/{id}``.

A vLLM endpoint plugin (vLLM 0.27 and later); like every one of them it is loaded only when ``VLLM_PLUGINS`` names it,
which ``longrope serve`` does.
"""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from vllm import envs

from longrope_vllm.plugin import followed, http_fields, metrics
from longrope_vllm.plugin.settings import server_settings
from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.server import layers, requests
from longrope_vllm.server.api_error import ApiError, answer_api_error
from longrope_vllm.server.keep_alive import KeepAlive
from longrope_vllm.server.progress import tell_progress
from longrope_vllm.server.requests import Requests

router = APIRouter(prefix="/v1/longrope", tags=["longrope"])


class LongRopeEndpoint:
    """Entry point of the group ``vllm.endpoint_plugins``."""

    name = "longrope"
    required_tasks = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes and the middleware to vLLM's app."""
        app.include_router(router)
        app.include_router(requests.router)
        app.add_middleware(KeepAlive)
        app.add_exception_handler(ApiError, answer_api_error)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Keep the engine client (None on a render-only server) for the routes, put the layers around the handlers.

        With tiers, add the request fields.
        """
        state.longrope_engine = engine_client
        state.longrope_requests = Requests(keyed=bool(args.api_key or envs.VLLM_API_KEY))
        followed.install()
        layers.install(state, (tell_progress(engine_client), requests.follow(state.longrope_requests)))
        served = _served(engine_client)
        if served is None or served.last == 0:
            return
        policy = server_settings(engine_client.vllm_config).policy
        http_fields.install(served, policy, args.served_model_name or [args.model])
        metrics.announce([tier.max_length for tier in served.tiers])


def _served(engine: Any) -> ServedTiers | None:
    return None if engine is None else ServedTiers.from_vllm_config(engine.vllm_config)


@router.get("")
async def tiers(request: Request) -> dict[str, Any]:
    """Settings and tiers in force, shortest first; an empty list for a model without a longrope block."""
    engine = request.app.state.longrope_engine
    served = _served(engine)
    if served is None:
        return {"tiers": []}
    return {
        **asdict(server_settings(engine.vllm_config)),
        "tiers": [
            {
                "max_length": tier.max_length,
                "plain": tier.is_plain,
                "own": served.is_own(tier),
                "attention_factor": tier.attention_factor,
                "start_tokens": tier.start_tokens,
                "identity": served.identity(index),
            }
            for index, tier in enumerate(served.tiers)
        ],
    }
