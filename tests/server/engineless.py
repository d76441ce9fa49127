"""vLLM's own server app without its engine: real routes, handlers, templates and tokenizer, answers from a fake.

For tests of what lies between the client and the engine: a second to make, where an engine takes minutes on the CPU.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from longrope_vllm.server.doors.settings import DoorSettings
from longrope_vllm.server.launch import parse_engine_options

ANSWER = "ok"


@dataclass(eq=False)
class FakeEngine:
    """What vLLM's handlers need of an engine client. Answers ``ANSWER`` at once."""

    vllm_config: Any
    renderer: Any
    prompts: list[int] = field(default_factory=list)
    """Length of each prompt that has come, in tokens."""
    max_tokens: list[int] = field(default_factory=list)
    """What vLLM allowed each of them to generate."""
    errored: bool = False
    input_processor: Any = None
    held: asyncio.Event | None = None
    """Answers wait for it."""
    failing: bool = False

    def __post_init__(self) -> None:
        self.model_config = self.vllm_config.model_config

    def check_admission(self, *args: Any, **kwargs: Any) -> None:
        """Every request is let in."""

    async def is_tracing_enabled(self) -> bool:
        return False

    async def check_health(self) -> None:
        """It is well."""

    async def generate(self, prompt: Any, params: Any, request_id: str, **kwargs: Any) -> AsyncIterator[Any]:
        from vllm.outputs import CompletionOutput, RequestOutput

        ids = prompt["prompt_token_ids"]
        self.prompts.append(len(ids))
        self.max_tokens.append(params.max_tokens)
        if self.failing:
            raise RuntimeError("as asked")
        if self.held is not None:
            await self.held.wait()
        answer = CompletionOutput(0, ANSWER, [1, 2], None, None, finish_reason="stop")
        yield RequestOutput(request_id, None, ids, None, [answer], finished=True, num_cached_tokens=0)


@dataclass(frozen=True, kw_only=True)
class Engineless:
    """A server without an engine, to be asked from plain tests."""

    app: Any
    engine: FakeEngine
    client: httpx.AsyncClient
    runner: asyncio.Runner

    def post(self, route: str, **fields: Any) -> httpx.Response:
        """The answer to ``fields`` as JSON."""
        return self.runner.run(self.client.post(route, json={"model": "tiny", **fields}))


@contextmanager
def engineless(
    checkpoint: Path, *options: str, doors: DoorSettings | None = None, tasks: tuple[str, ...] = ()
) -> Iterator[Engineless]:
    """The app that ``longrope serve checkpoint options`` would serve, with the endpoint attached by vLLM itself.

    ``tasks`` are further ones whose routes are there, without anything that could answer.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.renderers import renderer_from_config

    args = parse_engine_options([str(checkpoint), "--dtype", "float32", "--served-model-name", "tiny", *options])
    if doors is not None:
        doors.install(args)
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config()
    engine = FakeEngine(config, renderer_from_config(config))
    with patch.dict(os.environ, VLLM_PLUGINS="longrope"):
        app = build_app(args, ("generate", *tasks), config.model_config)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60)
    with asyncio.Runner() as runner:
        runner.run(init_app_state(engine, app.state, args, ("generate",)))
        yield Engineless(app=app, engine=engine, client=client, runner=runner)
        runner.run(client.aclose())
        engine.renderer.shutdown()
