"""``endpoint_shim``: what is added to the API server of a vLLM that has no endpoint plugins, here a copy in small."""

import asyncio
from argparse import Namespace
from types import ModuleType
from typing import Any

import pytest
import vllm.entrypoints.openai
from fastapi import FastAPI

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin import compat
from longrope_vllm.server import endpoint_shim
from longrope_vllm.server.endpoint import LongRopeEndpoint

OLD_SERVER = """
def build_app(args):
    app = FastAPI()
    app.add_middleware(Theirs)
    return sagemaker_standards_bootstrap(app)


def sagemaker_standards_bootstrap(app):
    app.middleware_stack = app.build_middleware_stack()  # from here on the app takes no middleware
    return app


async def init_app_state(engine_client, state, args, supported_tasks):
    state.order.append("theirs")
"""


class Theirs:
    """A middleware of vLLM's own."""

    def __init__(self, app: Any) -> None:
        self.app = app


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: Any = ModuleType("api_server")
    module.FastAPI, module.Theirs = FastAPI, Theirs
    exec(OLD_SERVER, module.__dict__)
    monkeypatch.setattr(vllm.entrypoints.openai, "api_server", module, raising=False)
    endpoint_shim.install()
    return module


def test_the_routes_are_there_and_the_middleware_lies_within_theirs(server: Any) -> None:
    app = server.build_app(Namespace())
    assert app.middleware_stack is not None
    assert {"/v1/longrope", "/v1/requests/{request_id}", "/v1/files"} <= set(app.openapi()["paths"])
    names = [middleware.cls.__name__ for middleware in app.user_middleware]
    assert names[0] == "Theirs"
    assert {"KeepAlive", "TellOwner"} <= set(names[1:])


def test_the_state_follows_theirs(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def init_state(self: Any, engine_client: Any, state: Any, args: Namespace) -> None:
        state.order.append((engine_client, args))

    monkeypatch.setattr(LongRopeEndpoint, "init_state", init_state)
    state, args = Namespace(order=[]), Namespace()
    asyncio.run(server.init_app_state("engine", state, args, ("generate",)))
    assert state.order == ["theirs", ("engine", args)]


def test_several_api_servers_are_refused_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint_shim.check(Namespace(api_server_count=4))  # this vLLM has endpoint plugins
    monkeypatch.setattr(endpoint_shim, "is_needed", lambda: True)
    for count in (None, 1):
        endpoint_shim.check(Namespace(api_server_count=count))
    with pytest.raises(UnsupportedError, match=r"Expected one API server .* found --api-server-count 4: leave it out"):
        endpoint_shim.check(Namespace(api_server_count=4))


@pytest.mark.compat
def test_the_range_of_vllm_still_begins_before_endpoint_plugins() -> None:
    assert compat.is_supported("0.26.0")
