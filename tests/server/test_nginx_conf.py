"""The documented nginx configuration: nginx reads it, and it says what long requests need."""

import re
import subprocess
from pathlib import Path

import pytest

from longrope_vllm.server.files.settings import FileSettings
from nginx_site import DOCUMENTED, configured, nginx_program


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
