"""A server under supervision, with an idle process for an engine: ``python supervised_site.py PORT LIMIT``.

Everything but the engine is real: uvicorn, signals, processes, exit status. ``POST /wait`` is never answered by itself.
"""

import asyncio
import subprocess
import sys
from argparse import Namespace
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import psutil
import uvicorn
from fastapi import FastAPI, Request

from longrope_vllm.plugin.pulse import Pulse
from longrope_vllm.server import health, supervision
from longrope_vllm.server.api_error import ApiError, answer_api_error
from longrope_vllm.server.launch import FAILURE


class Core:
    """What supervision needs of vLLM's client of an engine core, over the process ``process``."""

    resources = SimpleNamespace(engine_manager=None)

    def __init__(self, process: psutil.Process) -> None:
        self._pulse = Pulse(pid=process.pid, created=process.create_time(), requests=0, computed_tokens=0)

    async def call_utility_all_async(self, method: str) -> list[dict[str, Any]]:
        assert method == "longrope_pulse"
        return [asdict(self._pulse)]


async def wait(request: Request) -> None:
    """Return when the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def main(port: int, limit: int) -> int:
    """Serve; the exit status is that of ``longrope serve``."""
    supervision.INTERVAL = 0.1
    engine = subprocess.Popen(["sleep", "600"])
    client = SimpleNamespace(
        errored=False,
        engine_core=Core(psutil.Process(engine.pid)),
        output_processor=SimpleNamespace(get_num_unfinished_requests=lambda: 0),
        vllm_config=SimpleNamespace(),
    )
    app, args = FastAPI(), Namespace(shutdown_timeout=limit)
    app.add_exception_handler(ApiError, answer_api_error)
    app.include_router(health.router)
    app.add_api_route("/health", lambda: None)
    app.add_api_route("/wait", wait, methods=["POST"])
    supervision.attach(app)
    supervision.begin(client, app.state, args)
    app.state.server = server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    with engine:
        asyncio.run(server.serve())
        engine.kill()
    return 0 if getattr(args, FAILURE, None) is None else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
