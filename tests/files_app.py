"""The routes for files in an app without an engine: tokens are words, tiers are of 100, 400 and 1,000 tokens."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from longrope_vllm.factors import Factors, Origin, Tier
from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.server.api_error import ApiError, answer_api_error
from longrope_vllm.server.files.file_object import Serving
from longrope_vllm.server.files.routes import router
from longrope_vllm.server.files.service import FileService
from longrope_vllm.server.files.settings import FileSettings
from longrope_vllm.server.files.store import FileStore
from longrope_vllm.server.files.text import TextReader
from longrope_vllm.server.files.tokens import TokenCounter
from longrope_vllm.server.text_tokens import TextCounter

LENGTHS = (100, 400, 1000)
TIERS = ServedTiers.from_factors(
    Factors(
        rotary_dim=4,
        base=10_000.0,
        trained_window=LENGTHS[0],
        tiers=tuple(Tier(max_length=length, factors=(1.0, length / LENGTHS[0])) for length in LENGTHS),
        origin=Origin(method="test"),
    ),
    LENGTHS[-1],
)


class WordTokenizer:
    """A token for every word; one of more than ten characters is several."""

    def __call__(self, text: str, *, truncation: bool, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not truncation
        assert not add_special_tokens
        return {"input_ids": [0] * sum(math.ceil(len(word) / 10) for word in text.split())}


class Clock:
    """Tells the time it is set to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def service(
    directory: Path,
    *,
    clock: Callable[[], float] | None = None,
    model: str = "words",
    tiers: ServedTiers | None = TIERS,
    keyed: bool = False,
    **settings: Any,
) -> FileService:
    found = FileSettings(directory=directory, **settings)
    return FileService(
        settings=found,
        store=FileStore(found) if clock is None else FileStore(found, clock=clock),
        reader=TextReader(found, keyed=keyed),
        counter=TokenCounter(name=model, texts=TextCounter(WordTokenizer())),
        serving=lambda: Serving(max_model_len=LENGTHS[-1], tiers=tiers),
        keyed=keyed,
    )


def app_of(files: FileService | None) -> FastAPI:
    app = FastAPI()
    app.state.longrope_files = files
    app.include_router(router)
    app.add_exception_handler(ApiError, answer_api_error)
    return app


def client_of(files: FileService | None, key: str | None = None) -> TestClient:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return TestClient(app_of(files), headers=headers)


def upload(
    client: TestClient, data: bytes | str, name: str = "a.txt", content_type: str = "text/plain", **fields: str
) -> Any:
    form = {"purpose": "user_data", **fields}
    return client.post("/v1/files", files={"file": (name, data, content_type)}, data=form)


def refused(response: Any, status: int, code: str, *parts: str) -> None:
    """``response`` is this refusal, in one sentence that holds ``parts``."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["message"].startswith("Expected ")
    for part in parts:
        assert part in error["message"]


def part(name: str, value: bytes, *, filename: str | None = None) -> bytes:
    more = "" if filename is None else f'; filename="{filename}"'
    return f'--cut\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


def form_headers() -> dict[str, str]:
    return {"Content-Type": "multipart/form-data; boundary=cut"}


async def send(
    app: Any, body: Iterator[bytes], headers: dict[str, str], *, leave: bool = False, leave_after: bool = False
) -> tuple[int, Any]:
    """One upload as ASGI messages: the body is read as the app asks for it; status and answer."""
    sent: list[dict[str, Any]] = []
    ended = False

    async def receive() -> dict[str, Any]:
        nonlocal ended
        chunk = next(body, None)
        if chunk is not None:
            return {"type": "http.request", "body": chunk, "more_body": True}
        if leave or (leave_after and ended):
            return {"type": "http.disconnect"}
        if ended:
            await asyncio.sleep(3600)
        ended = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def keep(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await app(scope, receive, keep)
    return sent[0]["status"], json.loads(sent[1]["body"])
