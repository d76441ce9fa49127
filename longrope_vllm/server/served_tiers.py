"""``GET /v1/longrope``: the tiers in force on this server."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from longrope_vllm.plugin.settings import server_settings
from longrope_vllm.plugin.tiers import ServedTiers

router = APIRouter(tags=["longrope"])


def of(engine: Any) -> ServedTiers | None:
    """Those of an engine client; None of a model without a longrope block, and where there is no engine."""
    return None if engine is None else ServedTiers.from_vllm_config(engine.vllm_config)


_EXAMPLE = {
    "policy": "prompt",
    "angles": "exact",
    "lanes": "on",
    "short_wait": 0.1,
    "tiers": [
        {
            "max_length": 131_072,
            "plain": True,
            "own": True,
            "attention_factor": 1.0,
            "start_tokens": 0,
            "identity": "805125bff685b5c1",
        },
        {
            "max_length": 2_097_152,
            "plain": False,
            "own": False,
            "attention_factor": 1.1114,
            "start_tokens": 0,
            "identity": "d03bd93c238e06f9",
        },
    ],
}


@router.get(
    "/v1/longrope",
    summary="Tiers In Force",
    responses={200: {"content": {"application/json": {"example": _EXAMPLE}}}},
)
async def tiers(request: Request) -> dict[str, Any]:
    """Settings and tiers in force, shortest first; an empty list for a model without a longrope block."""
    engine = request.app.state.longrope_engine
    served = of(engine)
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
