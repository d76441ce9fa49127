"""Files on a real server, by OpenAI's client: uploaded once, asked about twice, kept over a kill, deleted."""

import base64
import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from longrope_vllm.server.running import RunningServer, running
from tiny_models import LONG, WINDOW, byte_tokenizer, stretched, tiny_llama

pytestmark = pytest.mark.vllm

KEYS = ("key-of-anna", "key-of-bert")
OPTIONS = ["--enforce-eager", "--dtype", "float32", "--served-model-name", "tiny", "--enable-prompt-tokens-details"]
BLOCK = 128
"""Tokens of a block of the CPU engine: what a prefix cache holds is a multiple of it."""
TEXT = "".join(chr(97 + number % 23) for number in range(400))
HEADING = len("Document book.txt:\n\n\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files_served")
    byte_tokenizer(stretched(tiny_llama(made / "model")))
    return made


def start(folder: Path, log: str) -> Any:
    options = ["serve", str(folder / "model"), *OPTIONS, "--api-key", *KEYS, "--files", str(folder / "files")]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    return running("longrope_vllm.cli.main", options, environment=environment, log=folder / log)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    with start(folder, "log") as started:
        yield started


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return client_at(server.url)


def client_at(url: str, key: str = KEYS[0]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def book(client: openai.OpenAI) -> openai.types.FileObject:
    return client.files.create(file=("book.txt", TEXT.encode()), purpose="user_data")


def chat(client: openai.OpenAI, file: dict[str, str], question: str, **fields: Any) -> Any:
    content: Any = [{"type": "file", "file": file}, {"type": "text", "text": question}]
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": content}], max_tokens=2, temperature=0, **fields
    )


def test_the_upload_tells_tokens_and_the_tier_that_then_serves_it(
    client: openai.OpenAI, book: openai.types.FileObject
) -> None:
    told = book.model_extra or {}
    assert told["tokens"] == HEADING + len(TEXT)
    assert told["longrope"] == {"tier": 1, "tier_max_length": LONG}
    answer = chat(client, {"file_id": book.id}, "Which?")
    assert answer.usage.prompt_tokens == told["tokens"] + len("\nWhich?")
    assert answer.longrope["tier"] == told["longrope"]["tier"]
    short = client.files.create(file=("short.txt", b"a few words"), purpose="user_data")
    assert (short.model_extra or {})["longrope"] == {"tier": 0, "tier_max_length": WINDOW}


def test_a_second_question_finds_the_document_in_the_prefix_cache(client: openai.OpenAI) -> None:
    text = TEXT[::-1]
    file = {"file_id": client.files.create(file=("book.txt", text.encode()), purpose="user_data").id}
    reused = (HEADING + len(text)) // BLOCK * BLOCK
    first, second = (chat(client, file, question).usage for question in ("Who is it?", "Where is it?"))
    assert (first.prompt_tokens_details.cached_tokens or 0) == 0
    assert second.prompt_tokens_details.cached_tokens == reused
    content: Any = [{"type": "input_file", **file}, {"type": "input_text", "text": "And when?"}]
    third = client.responses.create(model="tiny", input=[{"role": "user", "content": content}], max_output_tokens=2)
    assert third.usage is not None
    assert third.usage.input_tokens_details.cached_tokens == reused
    *_, last = chat(client, file, "Why?", stream=True, stream_options={"include_usage": True})
    assert last.usage.prompt_tokens_details.cached_tokens == reused


def test_a_file_in_the_message_is_the_same_document(client: openai.OpenAI, book: openai.types.FileObject) -> None:
    by_id = chat(client, {"file_id": book.id}, "Which one?")
    data = f"data:text/plain;base64,{base64.b64encode(TEXT.encode()).decode()}"
    inline = chat(client, {"filename": "book.txt", "file_data": data}, "Which one?")
    assert inline.choices[0].message.content == by_id.choices[0].message.content
    assert inline.usage.prompt_tokens == by_id.usage.prompt_tokens
    assert inline.usage.prompt_tokens_details.cached_tokens > 0


def test_another_key_finds_nothing_and_none_gets_in(
    server: RunningServer, client: openai.OpenAI, book: openai.types.FileObject
) -> None:
    bert = client_at(server.url, KEYS[1])
    assert bert.files.list().data == []
    for ask in (bert.files.retrieve, bert.files.content, bert.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(book.id)
    with pytest.raises(openai.NotFoundError) as caught:
        chat(bert, {"file_id": book.id}, "Which?")
    assert caught.value.code == "file_not_found"
    with pytest.raises(openai.AuthenticationError):
        client_at(server.url, "no key").files.list()
    assert client.files.retrieve(book.id) == book


def test_refusals_are_ours_inside_the_app_of_vllm(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, {"file_url": "https://example.org/a.txt"}, "Which?")
    assert caught.value.code == "file_url_not_supported"
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("a.txt", b"\xff"), purpose="user_data")
    assert caught.value.code == "file_not_readable"
    with pytest.raises(openai.BadRequestError):
        client.files.list(limit=0)


def test_a_document_over_the_limit_is_kept_and_a_question_on_it_refused(client: openai.OpenAI) -> None:
    long = client.files.create(file=("long.txt", b"x" * LONG), purpose="user_data")
    assert (long.status, (long.model_extra or {})["longrope"]) == ("processed", None)
    assert "context_length_exceeded" in (long.status_details or "")
    with pytest.raises(openai.BadRequestError, match=f"{LONG}"):
        chat(client, {"file_id": long.id}, "Which?")


def test_files_outlive_a_kill_in_the_middle_of_an_upload(
    folder: Path, server: RunningServer, client: openai.OpenAI, book: openai.types.FileObject
) -> None:
    """The last test of the module: it ends the server."""
    before = client.files.list().data
    with begun_upload(server.url):
        incoming = folder / "files" / "incoming"
        while not list(incoming.glob("*/original")):
            pass
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
    with start(folder, "log again") as again:
        client = client_at(again.url)
        assert client.files.list().data == before
        assert list(incoming.iterdir()) == []
        assert chat(client, {"file_id": book.id}, "Which?").usage.prompt_tokens > len(TEXT)
        assert client.files.content(book.id).content == TEXT.encode()
        assert client.files.delete(book.id).deleted
        with pytest.raises(openai.NotFoundError):
            chat(client, {"file_id": book.id}, "Which?")
        listing = urllib.request.Request(f"{again.url}/openapi.json", headers={"Authorization": f"Bearer {KEYS[0]}"})
        with urllib.request.urlopen(listing, timeout=30) as answer:
            assert b"/v1/files/{file_id}/content" in answer.read()
    assert "longrope: files  " in (folder / "log again").read_text()


def begun_upload(url: str) -> socket.socket:
    """A connection on which the first megabytes of an upload were sent."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    body = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + b"x" * 3_000_000
    head = f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEYS[0]}\r\n"
    head += "Content-Type: multipart/form-data; boundary=cut\r\nContent-Length: 9000000\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection
