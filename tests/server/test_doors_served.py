"""A guarded server as its users meet it: ``longrope serve --keys``, sockets, a file that changes. One server."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longrope_vllm.server.doors.key_editing import add_key, remove_key, rotate_key
from longrope_vllm.server.doors.keys_file import Limits
from longrope_vllm.server.running import running
from tiny_models import byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

OPTIONS = ["--tiers", "4k:yarn", "--enforce-eager", "--dtype", "float32", "--served-model-name", "tiny"]
OPTIONS += ["--body-deadline", "2s", "--max-body-size", "1MB", "--max-num-queued-tokens", "3000"]


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A server with a file of keys."""

    url: str
    keys: Path
    log: Path
    key: str
    """Of alice, without limits."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded_server")
    checkpoint = byte_tokenizer(tiny_llama(folder / "checkpoint"))
    keys, log = folder / "keys.toml", folder / "log"
    key = add_key(keys, "alice", limits=Limits(), admin=False)
    options = ["serve", str(checkpoint), *OPTIONS, "--keys", str(keys), "--files", str(folder / "files")]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_API_KEY": "operator"}
    with running("longrope_vllm.cli.main", options, environment=environment, log=log) as started:
        yield Guarded(url=started.url, keys=keys, log=log, key=key)


def ask(server: Guarded, path: str, key: str | None, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, JSON and headers of the answer."""
    headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers), timeout=120) as answer:
            text, status, told = answer.read(), answer.status, answer.headers
    except urllib.error.HTTPError as error:
        with error:
            text, status, told = error.read(), error.code, error.headers
    return status, json.loads(text) if text[:1] in (b"{", b"[") else text, told


def complete(server: Guarded, key: str, length: int = 20, **more: Any) -> tuple[int, Any, Any]:
    body = {"model": "tiny", "prompt": "a" * length, "max_tokens": 4, "ignore_eos": True, **more}
    return ask(server, "/v1/completions", key, body)


def within(seconds: float, condition: Any) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_the_start_says_whose_keys_are_asked_for(server: Guarded) -> None:
    printed = server.log.read_text()
    assert f"longrope: keys   1 name in {server.keys}" in printed
    assert "1 by --api-key" in printed


@pytest.mark.parametrize("path", ["/tokenize", "/invocations", "/metrics", "/v1/models", "/openapi.json", "/ping"])
def test_nothing_but_health_is_told_without_a_key(path: str, server: Guarded) -> None:
    assert ask(server, "/health", None)[0] == 200
    assert ask(server, path, None)[0] == 401
    assert ask(server, path, server.key)[0] != 401
    assert ask(server, path, "operator")[0] != 401


def test_a_key_is_never_in_the_log(server: Guarded) -> None:
    complete(server, server.key)
    complete(server, "sk-made-up")
    logged = server.log.read_text()
    assert server.key not in logged
    assert "sk-made-up" not in logged
    assert "operator" not in logged


def test_keys_come_and_go_while_the_server_runs_and_a_name_keeps_its_files(server: Guarded) -> None:
    first = add_key(server.keys, "bob", limits=Limits(), admin=False)
    assert within(5, lambda: ask(server, "/v1/models", first)[0] == 200)
    form = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--x\r\nContent-Disposition: '
    form += b'form-data; name="file"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    status, stored, _ = ask(server, "/v1/files", first, form, **{"Content-Type": "multipart/form-data; boundary=x"})
    assert status == 200
    second = rotate_key(server.keys, "bob")
    assert within(5, lambda: ask(server, f"/v1/files/{stored['id']}", second)[0] == 200)
    assert ask(server, f"/v1/files/{stored['id']}", server.key)[0] == 404
    remove_key(server.keys, "bob")
    assert within(5, lambda: ask(server, "/v1/models", first)[0] == 401)
    assert ask(server, "/v1/models", second)[0] == 401


def test_tokens_are_charged_on_the_real_engine_and_come_back(server: Guarded) -> None:
    key = add_key(server.keys, "carol", limits=Limits(tokens_per_minute=600), admin=False)
    assert within(5, lambda: ask(server, "/v1/models", key)[0] == 200)
    status, _, told = complete(server, key, 500)
    assert (status, told["x-ratelimit-limit-tokens"]) == (200, "600")
    assert 90 <= int(told["x-ratelimit-remaining-tokens"]) <= 130
    status, answer, told = complete(server, key, 150)
    assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    wait = int(told["Retry-After"])
    assert 1 <= wait <= 7
    time.sleep(wait)
    assert complete(server, key, 150)[0] == 200
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "a" * 500}], "max_completion_tokens": 2}
    assert ask(server, "/invocations", key, chat)[0] == 429


def test_whoever_leaves_gives_its_slot_back(server: Guarded) -> None:
    key = add_key(server.keys, "dave", limits=Limits(concurrent_long=1), admin=False)
    assert within(5, lambda: ask(server, "/v1/models", key)[0] == 200)
    body = {"model": "tiny", "prompt": "b" * 1000, "max_tokens": 3000, "ignore_eos": True, "stream": True}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", server.port))) as connection:
        connection.sendall(head.encode() + data)
        assert b"200 OK" in connection.recv(1000)
        status, answer, told = complete(server, key, 1000)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(told["Retry-After"]) >= 1
        assert complete(server, key, 100)[0] == 200
    assert within(10, lambda: complete(server, key, 1000)[0] == 200)


def exchange(server: Guarded, data: bytes, *, then: bytes = b"", pause: float = 0.0) -> bytes:
    """What comes back for ``data`` and, every ``pause`` seconds, a byte of ``then`` until there is an answer."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as connection:
        connection.sendall(data)
        connection.settimeout(pause or 20)
        for one in then:
            try:
                begun = connection.recv(100_000)
                break
            except TimeoutError:
                connection.sendall(bytes([one]))
        else:
            begun = b""
        connection.settimeout(20)
        return begun + b"".join(iter(lambda: connection.recv(100_000), b""))  # the server closes it


def head(server: Guarded, *lines: str) -> bytes:
    start = ["POST /v1/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {server.key}"]
    return "\r\n".join([*start, "Content-Type: application/json", *lines, "", ""]).encode()


def test_half_a_body_and_one_that_trickles_are_answered(server: Guarded) -> None:
    assert b" 408 " in exchange(server, head(server, "Content-Length: 100") + b"{").splitlines()[0]
    trickled = exchange(server, head(server, "Content-Length: 1000"), then=b" " * 100, pause=0.3)
    assert b" 408 " in trickled.splitlines()[0]


def test_streamed_megabytes_are_refused_whatever_was_announced(server: Guarded) -> None:
    chunk = b"20000\r\n" + b" " * 0x20000 + b"\r\n"
    answer = exchange(server, head(server, "Transfer-Encoding: chunked") + chunk * 10)
    assert b" 413 " in answer.splitlines()[0]
    assert b'"limit":1000000' in answer
    assert b" 413 " in exchange(server, head(server, "Content-Length: 2000000")).splitlines()[0]


def test_headers_and_nesting_are_refused(server: Guarded) -> None:
    assert b" 431 " in exchange(server, head(server, "Content-Length: 0", f"X: {'a' * 100_000}")).splitlines()[0]
    status, answer, _ = ask(server, "/v1/completions", server.key, b'{"prompt": ' + b"[" * 5_000)
    assert (status, answer["error"]["code"]) == (400, "json_too_deep")


def test_a_full_queue_says_when_to_come_back(server: Guarded) -> None:
    complete(server, server.key, 1000)  # a prefill to learn from

    def long(first: int) -> tuple[int, Any, Any]:
        prompt = chr(first) + "c" * 3000  # none finds another's blocks
        return complete(server, server.key, prompt=prompt)

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(long, range(40, 56)))
    assert {status for status, _, _ in answers} == {200, 503}
    told = [headers for status, _, headers in answers if status == 503]
    assert all(int(headers["Retry-After"]) >= 1 for headers in told)
    assert max(int(headers["x-longrope-queued-tokens"]) for headers in told) >= 3000


def test_our_own_client_brings_its_key(server: Guarded, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing changed\n")
    command = [sys.executable, "-m", "longrope_vllm.cli.main", "ask", str(tmp_path / "notes.txt"), "What changed?"]
    command += ["--url", server.url, "--max-tokens", "4", "--json", "--api-key"]
    asked = subprocess.run([*command, server.key], capture_output=True, text=True, check=False, timeout=120)
    assert asked.returncode == 0, asked.stderr
    assert "answer" in json.loads(asked.stdout)
    refused = subprocess.run([*command, "sk-wrong"], capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode == 2
    assert json.loads(refused.stderr.splitlines()[-1])["error"]["status"] == 401


def test_a_file_of_keys_that_cannot_be_used_stops_the_start(server: Guarded, tmp_path: Path) -> None:
    from longrope_vllm.cli.main import main

    bad = tmp_path / "keys.toml"
    bad.write_text("[keys")
    bad.chmod(0o600)
    checkpoint = server.keys.parent / "checkpoint"
    assert main(["serve", str(checkpoint), "--keys", str(bad)]) == 2
    assert main(["serve", str(checkpoint), "--keys", str(tmp_path / "none.toml")]) == 2
    assert main(["serve", str(checkpoint), "--metrics", "key"]) == 2
