"""What the plugin adds to vLLM's HTTP server: its own routes, and layers around vLLM's handlers.

A vLLM endpoint plugin; like every one of them it is loaded only when ``VLLM_PLUGINS`` names it, which
``longrope serve`` does. vLLM before 0.27 has none: see ``endpoint_shim.py``.
"""

import asyncio
import os
from argparse import Namespace
from typing import Any

from fastapi import FastAPI

from longrope_vllm.plugin import followed, http_fields, metrics
from longrope_vllm.plugin.settings import server_settings
from longrope_vllm.server import (
    context_length,
    health,
    layers,
    queued_tokens,
    requests,
    served_tiers,
    stored_responses,
    supervision,
    token_count,
    tokenization,
    truncation,
)
from longrope_vllm.server.api_error import ApiError, answer_api_error
from longrope_vllm.server.doors.admission import open_admission
from longrope_vllm.server.files import parts
from longrope_vllm.server.files.opening import open_files
from longrope_vllm.server.files.routes import router as files_router
from longrope_vllm.server.joining import Joining
from longrope_vllm.server.keep_alive import KeepAlive
from longrope_vllm.server.progress import tell_progress
from longrope_vllm.server.prompt_tokens import PromptCounter
from longrope_vllm.server.requests import Requests


class LongRopeEndpoint:
    """Entry point of the group ``vllm.endpoint_plugins``."""

    name = "longrope"
    required_tasks = None

    def attach_router(self, app: FastAPI) -> None:
        """Add the routes and the middleware to vLLM's app."""
        for router in (served_tiers.router, requests.router, token_count.router, files_router, health.router):
            app.include_router(router)
        app.add_middleware(KeepAlive)
        app.add_middleware(stored_responses.TellOwner)
        app.add_exception_handler(ApiError, answer_api_error)
        supervision.attach(app)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Keep for the routes what they need, and put the layers around the handlers.

        ``engine_client`` is None on a server that only renders. With tiers, the request fields are added.
        """
        keyed = any(args.api_key or [os.environ.get("VLLM_API_KEY")])
        state.longrope_engine = engine_client
        stored_responses.install(state, keyed=keyed)
        state.longrope_requests = Requests(keyed=keyed)
        state.longrope_files = files = open_files(engine_client, args, keyed=keyed)
        state.longrope_prompts = prompts = PromptCounter(state)
        supervision.begin(engine_client, state, args)
        followed.install()
        tokenization.install(state.online_renderer.renderer)
        innermost_first: list[layers.Layer] = [
            truncation.layer(prompts),
            context_length.layer(prompts),
            tell_progress(engine_client),
            *([] if files is None else [parts.layer(files)]),
            open_admission(state, engine_client, args),
            requests.follow(state.longrope_requests),
            Joining(),
        ]
        layers.install(state, innermost_first)
        if engine_client is not None:
            state.longrope_queued_tokens = asyncio.create_task(queued_tokens.count(engine_client))
        served = served_tiers.of(engine_client)
        if served is None or served.last == 0:
            return
        policy = server_settings(engine_client.vllm_config).policy
        http_fields.install(served, policy, args.served_model_name or [args.model])
        metrics.announce([tier.max_length for tier in served.tiers])
