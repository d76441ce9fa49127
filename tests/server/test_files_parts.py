"""File parts in messages: the text of the file stands in the place of the part when the handler is called."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request

from files_app import client_of, service, upload
from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files import parts
from longrope_vllm.server.files.service import FileService
from longrope_vllm.server.layers import Api
from made_pdf import made_pdf

APIS: tuple[Api, ...] = ("chat", "responses")
TYPES = {"chat": "text", "responses": "input_text"}


@pytest.fixture
def files(tmp_path: Path) -> FileService:
    return service(tmp_path, keyed=True)


def stored(files: FileService, data: bytes | str = "the text", name: str = "a.txt", key: str = "anna") -> str:
    return str(upload(client_of(files, key), data, name).json()["id"])


def ask(files: FileService, api: Api, messages: Any, *, key: str = "anna") -> Any:
    """The messages as the handler gets them."""
    seen: list[Any] = []

    async def handler(request: Any, http: Request) -> str:
        seen.append(request.messages if api == "chat" else request.input)
        return "answer"

    request = SimpleNamespace(messages=messages) if api == "chat" else SimpleNamespace(input=messages)
    http = Request({"type": "http", "headers": [(b"authorization", f"Bearer {key}".encode())]})
    assert asyncio.run(parts.layer(files)(api, handler)(request, http)) == "answer"
    return seen[0]


def file_part(api: Api, **fields: Any) -> dict[str, Any]:
    return {"type": "file", "file": fields} if api == "chat" else {"type": "input_file", **fields}


def question(api: Api, *content: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [*content, {"type": TYPES[api], "text": "What?"}]}]


def texts(messages: Any) -> list[str]:
    return [part["text"] for message in messages for part in message["content"]]


def refusal(files: FileService, api: Api, messages: Any, *, key: str = "anna") -> tuple[int, str, str]:
    with pytest.raises(ApiError) as caught:
        ask(files, api, messages, key=key)
    return caught.value.status, caught.value.body["code"], str(caught.value)


def inline(data: bytes, content_type: str = "text/plain") -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("api", APIS)
def test_the_text_of_a_file_takes_the_place_of_its_part(api: Api, files: FileService) -> None:
    first, second = stored(files), stored(files, "<p>a page", "b.html")
    found = ask(files, api, question(api, file_part(api, file_id=first), file_part(api, file_id=second)))
    assert found == question(
        api,
        {"type": TYPES[api], "text": "Document a.txt:\n\nthe text\n"},
        {"type": TYPES[api], "text": "Document b.html:\n\na page\n\n"},
    )


@pytest.mark.parametrize("api", APIS)
def test_a_question_without_files_passes_as_it_is(api: Api, files: FileService) -> None:
    for messages in (
        question(api, {"type": "image_url", "image_url": {"url": "x"}}, "bare text"),
        [{"role": "user", "content": "text"}, {"role": "assistant", "content": None}, {"role": "tool"}],
        [SimpleNamespace(role="of harmony")],
        [],
    ):
        assert ask(files, api, messages) == messages
    assert ask(files, "responses", "text") == "text"


def test_completions_have_no_layer(files: FileService) -> None:
    async def handler(request: Any, http: Request) -> None: ...

    assert parts.layer(files)("completions", handler) is handler


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"filename": "a.txt", "file_data": inline(b"some text")}, "Document a.txt:\n\nsome text\n"),
        ({"filename": "dir/a.txt", "file_data": base64.b64encode(b"bare").decode()}, "Document a.txt:\n\nbare\n"),
        ({"file_data": inline(b"<p>page", "text/html")}, "Document document:\n\npage\n\n"),
        ({"filename": "a.pdf", "file_data": inline(made_pdf(["page"]))}, "Document a.pdf:\n\npage\n\n\n"),
    ],
)
def test_a_file_in_the_message_itself_is_read_and_not_kept(
    api: Api, fields: dict[str, str], text: str, files: FileService, tmp_path: Path
) -> None:
    assert texts(ask(files, api, question(api, file_part(api, **fields)))) == [text, "What?"]
    assert not [*(tmp_path / "incoming").iterdir(), *(tmp_path / "stored").iterdir()]


def test_a_content_that_can_be_read_once_only_is_read_once(files: FileService) -> None:
    file_id = stored(files)

    def content() -> Iterator[dict[str, Any]]:
        yield file_part("chat", file_id=file_id)
        yield {"type": "text", "text": "What?"}

    found = ask(files, "chat", [{"role": "user", "content": content()}])
    assert texts(found) == texts(found) == ["Document a.txt:\n\nthe text\n", "What?"]


def test_a_chat_part_may_leave_its_type_out(files: FileService) -> None:
    file_id = stored(files)
    assert texts(ask(files, "chat", question("chat", {"file": {"file_id": file_id}})))[0].endswith("the text\n")


def test_the_output_of_a_function_may_be_a_file(files: FileService) -> None:
    item = {"type": "function_call_output", "call_id": "1", "output": [file_part("responses", file_id=stored(files))]}
    (found,) = ask(files, "responses", [item])
    assert found["output"] == [{"type": "input_text", "text": "Document a.txt:\n\nthe text\n"}]


@pytest.mark.parametrize("api", APIS)
def test_a_file_that_is_not_there_or_of_another_key_is_404(api: Api, files: FileService) -> None:
    file_id = stored(files)
    for asked, key in (("file-none", "anna"), (file_id, "bert")):
        status, code, message = refusal(files, api, question(api, file_part(api, file_id=asked)), key=key)
        assert (status, code) == (404, "file_not_found")
        assert asked in message


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("fields", "code", "expected"),
    [
        ({"file_url": "https://example.org/a"}, "file_url_not_supported", "this server fetches nothing"),
        ({}, "invalid_file_part", "both or none"),
        ({"file_id": "file-1", "file_data": "YQ=="}, "invalid_file_part", "both or none"),
        ({"file_id": 1}, "invalid_file_part", "strings"),
        ({"file_data": "not base64!"}, "invalid_file_part", "in base64"),
        ({"file_data": "data:text/plain,text"}, "invalid_file_part", "data:TYPE;base64,DATA"),
        ({"file_data": "YQ==YQ"}, "invalid_file_part", "in base64"),
        ({"filename": "a.pdf", "file_data": inline(b"none")}, "file_not_readable", "a whole PDF"),
        ({"file_data": inline(b"\xff")}, "file_not_readable", "offset 0"),
    ],
)
def test_a_bad_part_is_one_sentence(
    api: Api, fields: dict[str, Any], code: str, expected: str, files: FileService
) -> None:
    found = refusal(files, api, question(api, file_part(api, **fields)))
    assert found[:2] == (400, code)
    assert expected in found[2]


@pytest.mark.parametrize("file", [None, "file-1", ["file-1"]])
def test_a_part_without_an_object_is_refused(file: Any, files: FileService) -> None:
    found = refusal(files, "chat", question("chat", {"type": "file", "file": file}))
    assert found[:2] == (400, "invalid_file_part")


@pytest.mark.parametrize("api", APIS)
def test_the_assistant_sends_no_files(api: Api, files: FileService) -> None:
    part = file_part(api, file_id=stored(files))
    assert refusal(files, api, question(api, part, role="assistant"))[:2] == (400, "invalid_file_part")


@pytest.mark.parametrize("api", APIS)
def test_the_files_of_one_request_are_bounded(api: Api, tmp_path: Path) -> None:
    files = service(tmp_path, keyed=True, text_bytes=100)
    part = file_part(api, file_id=stored(files, "w" * 40))
    assert len(texts(ask(files, api, question(api, part, part)))) == 3
    found = refusal(files, api, question(api, part, part, part))
    assert found[:2] == (400, "documents_too_long")
    own = file_part(api, file_data=inline(b"w" * 40))
    assert refusal(files, api, question(api, own, own, own))[:2] == (400, "documents_too_long")


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_the_classes_of_vllm_let_file_parts_through(role: str, files: FileService) -> None:
    pytest.importorskip("vllm", reason="the classes are vLLM's")
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    fields = {"file_id": stored(files)}, {"filename": "a.txt", "file_data": inline(b"the text")}
    expected = ["Document a.txt:\n\nthe text\n", "Document a.txt:\n\nthe text\n", "What?"]
    chat = question("chat", *(file_part("chat", **each) for each in fields), role=role)
    request = ChatCompletionRequest.model_validate({"model": "m", "messages": chat})
    assert texts(ask(files, "chat", request.messages)) == expected
    responses = question("responses", *(file_part("responses", **each) for each in fields), role=role)
    request = ResponsesRequest.model_validate({"model": "m", "input": responses})
    assert texts(ask(files, "responses", request.input)) == expected
