"""``longrope ask`` and a real server, with the Files API where that server has it."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from longrope_vllm.cli.main import main
from longrope_vllm.server.running import running
from tiny_models import LONG, byte_tokenizer, stretched, tiny_llama

pytestmark = pytest.mark.vllm

TEXT = "All about cats. " * 20
QUESTION = "What is it about?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """URL and log."""
    checkpoint = stretched(byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("asked"))))
    options = ["serve", str(checkpoint), "--served-model-name", "tiny", "--enforce-eager", "--dtype", "float32"]
    options += ["--max-num-batched-tokens", "256", "--enable-prompt-tokens-details", "--enable-log-requests"]
    # A server that keeps files keeps them in the user's cache directory.
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "XDG_CACHE_HOME": str(checkpoint.parent / "cache")}
    log = checkpoint.parent / "server.log"
    with running("longrope_vllm.cli.main", options, environment=environment, log=log) as started:
        yield started.url, log


@pytest.fixture
def url(server: tuple[str, Path]) -> str:
    return server[0]


@pytest.fixture
def document(tmp_path: Path) -> str:
    path = tmp_path / "cats.md"
    path.write_text(TEXT)
    return str(path)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def keeps_files(url: str) -> bool:
    try:
        read(f"{url}/v1/files")
    except urllib.error.HTTPError as error:
        error.close()
        return False
    return True


def ask(url: str, *words: str) -> int:
    return main(["ask", *words, "--url", url, "--max-tokens", "8", "--temperature", "0", "--json"])


def answers(said: str) -> list[Any]:
    return [json.loads(line) for line in said.splitlines()]


def test_the_prompt_is_the_document_and_the_question_uploaded_or_not(
    url: str, document: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(url, document, QUESTION) == 0
    assert ask(url, document, QUESTION, "--no-files") == 0
    first, inline = answers(capsys.readouterr().out)
    # A token is a character, and the tokenizer's template joins the parts of a message by line ends.
    assert inline["usage"]["prompt_tokens"] == len(f"Document cats.md:\n\n{TEXT}\n\n{QUESTION}")
    assert first["usage"]["prompt_tokens"] == inline["usage"]["prompt_tokens"]
    assert first["answer"] == inline["answer"]
    assert inline["longrope"]["tier_max_length"] == LONG
    assert [file["name"] for file in first["files"]] == ["cats.md"]
    assert [file["id"] is not None for file in first["files"]] == [keeps_files(url)]
    if keeps_files(url):
        assert not json.loads(read(f"{url}/v1/files"))["data"]


def test_a_following_question_finds_the_document_in_the_cache(
    url: str, document: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "questions").write_text("And what else?\n")
    with (tmp_path / "questions").open() as questions:
        monkeypatch.setattr("sys.stdin", questions)
        assert ask(url, document, "Who is it about?", "--follow-up") == 0
    first, second = answers(capsys.readouterr().out)
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 256  # two blocks, all that were whole


def test_a_document_past_the_longest_tier_is_refused_with_the_limit(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "long.md").write_text("a" * (LONG + 1))
    assert ask(url, str(tmp_path / "long.md"), QUESTION) == 2
    said = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert said["status"] == 400
    assert str(LONG) in said["message"].replace(",", "")


def test_ctrl_c_cancels_the_request_on_the_server(server: tuple[str, Path], document: str) -> None:
    url, log = server
    words = ["ask", document, QUESTION, "--url", url, "--temperature", "0"]
    for _ in range(10):  # an answer may be whole before the signal arrives
        run = subprocess.Popen(
            [sys.executable, "-m", "longrope_vllm.cli.main", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        assert run.stdout is not None
        assert run.stdout.read(1)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
        if run.returncode == 130:
            break
    assert run.returncode == 130, said
    deadline = time.monotonic() + 30
    while not re.search(r"Request \S+ aborted", log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
