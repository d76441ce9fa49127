"""Stored responses on vLLM's own handler: what one key keeps, another one cannot read, continue, cancel or replace."""

import asyncio
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from engineless import Engineless, engineless

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.server.doors.key_editing import add_key, rotate_key
from longrope_vllm.server.doors.keys_file import Limits
from longrope_vllm.server.doors.settings import DoorSettings
from longrope_vllm.server.in_flight import InFlight
from longrope_vllm.server.stored_responses import STORES, OwnersOnly, install
from longrope_vllm.server.supervision import Supervision
from tiny_models import byte_tokenizer, tiny_llama


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stored") / "keys.toml"


@pytest.fixture(scope="module")
def keys(keys_file: Path) -> dict[str, str]:
    return {name: add_key(keys_file, name, limits=Limits(), admin=False) for name in ("alice", "bob")}


@pytest.fixture(scope="module")
def server(keys_file: Path, keys: dict[str, str]) -> Iterator[Engineless]:
    checkpoint = byte_tokenizer(tiny_llama(keys_file.parent / "checkpoint"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_RESPONSES_API_STORE", "1")
        with engineless(checkpoint, doors=DoorSettings(keys=keys_file, api_keys=())) as started:
            yield started


async def asked(server: Engineless, key: str, method: str, path: str = "", **body: Any) -> httpx.Response:
    return await server.client.request(
        method,
        f"/v1/responses{path}",
        headers={"Authorization": f"Bearer {key}"},
        json={"model": "tiny", "input": "a", **body} if method == "POST" else None,
    )


def ask(server: Engineless, key: str, method: str, path: str = "", **body: Any) -> httpx.Response:
    return server.runner.run(asked(server, key, method, path, **body))


def test_the_stores_are_those_of_this_vllm(server: Engineless) -> None:
    handler = server.app.state.openai_serving_responses
    assert all(isinstance(getattr(handler, name), OwnersOnly) for name in STORES)


def test_a_stored_response_is_found_by_its_owner_alone(server: Engineless, keys: dict[str, str]) -> None:
    name = ask(server, keys["alice"], "POST").json()["id"]
    assert ask(server, keys["alice"], "GET", f"/{name}").json()["id"] == name
    for method, path in (("GET", f"/{name}"), ("POST", f"/{name}/cancel")):
        assert ask(server, keys["bob"], method, path).status_code == 404
    assert ask(server, keys["alice"], "POST", previous_response_id=name).status_code == 200
    assert ask(server, keys["bob"], "POST", previous_response_id=name).status_code == 404


def test_a_response_of_the_same_id_does_not_replace_another_ones(server: Engineless, keys: dict[str, str]) -> None:
    ids = {"request_id": "resp_shared"}
    for owner, text in (("alice", "of alice"), ("bob", "of bob")):
        assert ask(server, keys[owner], "POST", metadata={"text": text}, **ids).status_code == 200
    for owner, text in (("alice", "of alice"), ("bob", "of bob")):
        assert ask(server, keys[owner], "GET", "/resp_shared").json()["metadata"] == {"text": text}


def test_an_owner_with_another_key_still_finds_it(server: Engineless, keys_file: Path, keys: dict[str, str]) -> None:
    name = ask(server, keys["alice"], "POST").json()["id"]
    another = rotate_key(keys_file, "alice")
    for _ in range(100):
        found = ask(server, another, "GET", f"/{name}")
        if found.status_code != 401:  # the file is read again now and then
            break
        server.runner.run(asyncio.sleep(0.1))
    assert found.json()["id"] == name


def test_what_runs_in_the_background_is_cancelled_by_its_owner_alone(server: Engineless, keys: dict[str, str]) -> None:
    async def run() -> tuple[str, list[int], str, int]:
        server.engine.held = asyncio.Event()
        try:
            name = (await asked(server, keys["alice"], "POST", background=True)).json()["id"]
            others = [
                (await asked(server, keys["bob"], method, path)).status_code
                for method, path in (("GET", f"/{name}?stream=true"), ("POST", f"/{name}/cancel"))
            ]
            before = (await asked(server, keys["alice"], "GET", f"/{name}")).json()["status"]
            unfinished = supervision._unfinished()  # of nobody's context: a drain waits for all owners
            after = (await asked(server, keys["alice"], "POST", f"/{name}/cancel")).json()["status"]
        finally:
            server.engine.held = None
        return before, others, after, unfinished

    supervision = Supervision(in_flight=InFlight(), engine=None, state=server.app.state, args=Namespace())
    before, others, after, unfinished = server.runner.run(run())
    assert unfinished == 1
    assert before in ("queued", "in_progress")
    assert others == [404, 404]
    assert after == "cancelled"
    assert supervision._unfinished() == 0


def test_what_was_made_in_the_background_is_kept_for_its_owner(server: Engineless, keys: dict[str, str]) -> None:
    async def run() -> dict[str, Any]:
        name = (await asked(server, keys["bob"], "POST", background=True)).json()["id"]
        for _ in range(200):
            response: dict[str, Any] = (await asked(server, keys["bob"], "GET", f"/{name}")).json()
            if response["status"] not in ("queued", "in_progress"):
                break
            await asyncio.sleep(0.02)
        return response

    assert server.runner.run(run())["status"] == "completed"


@pytest.mark.parametrize("enabled", [True, False])
def test_other_stores_than_those_known_are_refused_where_responses_are_stored(enabled: bool) -> None:
    state = SimpleNamespace(openai_serving_responses=SimpleNamespace(enable_store=enabled, response_store={}))
    if enabled:
        with pytest.raises(UnsupportedError, match="unset VLLM_ENABLE_RESPONSES_API_STORE"):
            install(state, keyed=True)
    else:
        install(state, keyed=True)
        assert isinstance(state.openai_serving_responses.response_store, OwnersOnly)
