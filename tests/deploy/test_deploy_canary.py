"""The command of deploy/systemd's canary, run against servers that get on, that stand still, and that are not there."""

import http.server
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from manifests import DEPLOY

UNIT = (DEPLOY / "systemd" / "longrope-canary.service").read_text()


def canary(port: int) -> int:
    """Its exit status, with a second for a minute."""
    (script,) = re.findall(r"ExecStart=/bin/sh -c '(.+)'$", UNIT.replace("\\\n", " "), re.MULTILINE)
    for written, here in (("8000/", f"{port}/"), ("15 15 15 15 0", "0 0 0 0 0"), ("--max-time 10", "--max-time 1")):
        assert written in script
        script = script.replace(written, here)
    return subprocess.run(["/bin/sh", "-c", script.replace("$$", "$")], check=False, timeout=60).returncode


@contextmanager
def answering(*statuses: int) -> Iterator[int]:
    """The port of a server that answers with each of ``statuses`` once, and with the last one from then on."""
    left = list(statuses)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture(autouse=True)
def with_curl() -> None:
    if shutil.which("/usr/bin/curl") is None:
        pytest.skip("curl is not installed")


@pytest.mark.parametrize(("statuses", "status"), [((200,), 0), ((503, 503, 200), 0), ((503,), 1)])
def test_only_an_engine_that_stands_still_for_a_minute_is_reported(statuses: tuple[int, ...], status: int) -> None:
    with answering(*statuses) as port:
        assert canary(port) == status


def test_a_server_that_takes_connections_and_does_not_answer_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert canary(listening.getsockname()[1]) == 1


def test_a_server_that_loads_or_has_ended_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert canary(port) == 0
