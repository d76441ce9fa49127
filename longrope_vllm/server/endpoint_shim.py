"""vLLM before 0.27 knows no endpoint plugins: there the endpoint is put into its API server, where later ones put it.

For the process that starts the server; API servers in other processes would go without, so several are refused.
Remove when the range of vLLM begins with 0.27.
"""

from argparse import Namespace
from functools import wraps
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI

from longrope_vllm.errors import UnsupportedError


def is_needed() -> bool:
    """Whether this vLLM has no endpoint plugins of its own."""
    return find_spec("vllm.plugins.endpoint_plugins") is None


def check(arguments: Namespace) -> None:
    """Raise ``UnsupportedError`` when vLLM's ``arguments`` ask for several API servers."""
    if is_needed() and (arguments.api_server_count or 1) > 1:
        raise UnsupportedError(
            f"Expected one API server with a vLLM before 0.27, found --api-server-count {arguments.api_server_count}: "
            "leave it out, or install a newer vLLM."
        )


def install() -> None:
    """Have vLLM's ``build_app`` and ``init_app_state`` add what ``LongRopeEndpoint`` adds."""
    from vllm.entrypoints.openai import api_server

    from longrope_vllm.server.endpoint import LongRopeEndpoint

    endpoint = LongRopeEndpoint()
    # The last that build_app calls; after it an app takes no middleware.
    bootstrap, init_app_state = api_server.sagemaker_standards_bootstrap, api_server.init_app_state

    @wraps(bootstrap)
    def attach(app: FastAPI) -> FastAPI:
        theirs = list(app.user_middleware)
        endpoint.attach_router(app)
        ours = app.user_middleware[: len(app.user_middleware) - len(theirs)]
        app.user_middleware[:] = theirs + ours  # within vLLM's own, authentication among them
        attached: FastAPI = bootstrap(app)
        return attached

    @wraps(init_app_state)
    async def init(engine_client: Any, state: Any, args: Namespace, *more: Any, **kwargs: Any) -> None:
        await init_app_state(engine_client, state, args, *more, **kwargs)
        await endpoint.init_state(engine_client, state, args)

    api_server.sagemaker_standards_bootstrap, api_server.init_app_state = attach, init
