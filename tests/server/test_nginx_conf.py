"""The documented nginx configuration: nginx reads it, and it says what long requests need."""

import re
import subprocess
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from longrope_vllm.server.files.settings import FileSettings
from nginx_site import DOCUMENTED, behind_nginx, configured, nginx_program

PASSING = (
    "/health",
    "/health/ready",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/files/file-1/content",
    "/v1/requests/a?b=..",
)
REFUSED = ("/", "/metrics", "/tokenize", "/invocations", "/v1/load_lora_adapter", "/v1/modelsx", "/sleep", "/docs")
CONFUSING = ("/metrics/../v1/models", "/metrics/%2e%2E/v1/models", "/metrics%2F../v1/models", "/v1/models/..%5cmetrics")


def directives() -> dict[str, list[str]]:
    """Of the file, by name; blocks and comments left out."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^\s*(\w+)\s+([^{};]+);", re.sub(r"#.*", "", DOCUMENTED.read_text()), re.MULTILINE):
        found.setdefault(name, []).append(" ".join(value.split()))
    return found


def test_nginx_accepts_it(tmp_path: Path) -> None:
    if nginx_program() is None:
        pytest.skip("nginx is not installed")
    done = subprocess.run(
        [*configured(tmp_path, 8188, "127.0.0.1:8000"), "-t"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "syntax is ok" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("proxy_buffering", "off"),
        ("proxy_request_buffering", "off"),
        ("proxy_read_timeout", "3600s"),
        ("proxy_http_version", "1.1"),
        ("proxy_ignore_client_abort", "off"),
        ("proxy_next_upstream", "off"),
    ],
)
def test_it_says_what_long_requests_need(name: str, value: str) -> None:
    assert directives()[name] == [value]


def test_the_body_may_be_as_long_as_the_longest_file_and_its_form() -> None:
    (size,) = directives()["client_max_body_size"]
    assert size.endswith("m")
    assert int(size[:-1]) * 2**20 > FileSettings().file_bytes + 2**20


def test_connections_to_the_server_end_before_the_server_ends_them() -> None:
    (seconds,) = directives()["keepalive_timeout"]
    assert int(seconds.removesuffix("s")) < 5  # vLLM's VLLM_HTTP_TIMEOUT_KEEP_ALIVE
    assert directives()["keepalive"]
    assert 'Connection ""' in directives()["proxy_set_header"]


def test_the_id_of_a_request_reaches_the_server() -> None:
    assert "X-Request-Id $request_name" in directives()["proxy_set_header"]
    assert directives()["default"] == ["$http_x_request_id"]


class _AnswersEverything(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_only_the_paths_of_clients_pass(tmp_path: Path) -> None:
    if nginx_program() is None:
        pytest.skip("nginx is not installed")
    with HTTPServer(("127.0.0.1", 0), _AnswersEverything) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            with behind_nginx(tmp_path, 8189, f"127.0.0.1:{server.server_port}") as url:
                found = {path: _status(url, path) for path in (*PASSING, *REFUSED, *CONFUSING)}
        finally:
            server.shutdown()
            thread.join()
    assert found == dict.fromkeys(PASSING, 200) | dict.fromkeys(REFUSED, 404) | dict.fromkeys(CONFUSING, 400)


def _status(url: str, path: str) -> int:
    """Of a GET of ``path`` as it stands: ``http.client`` resolves no dots."""
    with closing(HTTPConnection(urlsplit(url).netloc)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as answer:
            return answer.status
