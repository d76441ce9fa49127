"""Every route of vLLM's real app and every kind of key; the limits of keys on the real handlers. Without an engine."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from engineless import Engineless, engineless

from longrope_vllm.server.doors.access import access_of
from longrope_vllm.server.doors.key_editing import add_key
from longrope_vllm.server.doors.keyring import command_line_keys
from longrope_vllm.server.doors.keys_file import Limits
from longrope_vllm.server.doors.settings import DoorSettings
from tiny_models import byte_tokenizer, tiny_llama

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/guard.md"
TABLE = dict(re.findall(r"^\| `(/[^`]*)` \| (open|key|admin) \|$", DOCUMENT.read_text(encoding="utf-8"), re.M))
TASKS = ("embed", "classify", "score", "token_embed", "token_classify", "transcription", "translation", "realtime")
OPTIONS = ["--enable-tokenizer-info-endpoint", "--enable-scale-out", "--allowed-origins", '["http://page"]']
OPTIONS += ["--profiler-config", '{"profiler": "torch", "torch_profiler_dir": "/nowhere"}']
PLAIN = Limits(requests_per_minute=10**9)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("guarded")))


@pytest.fixture(scope="module")
def keys_file(checkpoint: Path) -> Path:
    return checkpoint.parent / "keys.toml"


@pytest.fixture(scope="module")
def keys(keys_file: Path) -> dict[str, str]:
    """Kind of key to key."""
    return {
        "plain": add_key(keys_file, "plain", limits=PLAIN, admin=False),
        "admin": add_key(keys_file, "admin", limits=Limits(), admin=True),
        "wrong": "sk-wrong",
        "operator": "given by --api-key",
    }


@pytest.fixture(scope="module")
def server(checkpoint: Path, keys_file: Path, keys: dict[str, str]) -> Iterator[Engineless]:
    """With every route that a model of text can have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
        doors = DoorSettings(keys=keys_file, api_keys=command_line_keys([keys["operator"]]), long_request=40)
        with engineless(checkpoint, *OPTIONS, doors=doors, tasks=TASKS) as started:
            yield started


def routes_of(app: Any) -> Iterator[tuple[str, str]]:
    """Method and path of each."""
    for route in app.routes:
        for method in sorted(getattr(route, "methods", None) or ["GET"]):
            yield method, route.path


def ask(server: Engineless, method: str, path: str, key: str | None, **more: Any) -> httpx.Response:
    headers = {**more.pop("headers", {}), **({} if key is None else {"Authorization": f"Bearer {key}"})}
    return server.runner.run(server.client.request(method, path, headers=headers, **more))


def expected(access: str, kind: str | None) -> int | None:
    """The refusal, None for none."""
    if access == "open":
        return None
    if kind in (None, "wrong"):
        return 401
    return 403 if access == "admin" and kind == "plain" else None


def test_every_route_of_the_app_stands_in_the_table_and_nothing_there_is_wrong(server: Engineless) -> None:
    routes = {path for _, path in routes_of(server.app)}
    assert len(routes) > 60
    assert routes - TABLE.keys() == set()
    assert {path: access_of(path.replace("...", "x")) for path in TABLE} == TABLE


@pytest.mark.parametrize("kind", [None, "wrong", "plain", "admin", "operator"])
def test_every_route_asks_for_the_key_that_the_table_says(
    kind: str | None, server: Engineless, keys: dict[str, str]
) -> None:
    key = None if kind is None else keys[kind]
    found, right = {}, {}
    for method, path in routes_of(server.app):
        concrete = re.sub(r"{[^}]*}", "x", path)
        for tried in {method, "HEAD", "OPTIONS"}:
            status = ask(server, tried, concrete, key).status_code
            found[tried, path] = status if status in (401, 403) else None
            right[tried, path] = expected(TABLE[path], kind)
    assert found == right


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "//health",
        "/Health",
        "/health%2f..%2fv1/models",
        "/healthy",
        "/v1",
        "//v1/models",
        "/v1/models/",
        "/",
    ],
)
def test_without_a_key_nobody_learns_what_there_is(path: str, server: Engineless, keys: dict[str, str]) -> None:
    statuses = {ask(server, method, path, None).status_code for method in ("GET", "POST", "HEAD", "OPTIONS", "FOO")}
    assert statuses <= ({401} if not path.startswith("/health%2f") else {404, 405})
    assert ask(server, "GET", path, keys["plain"]).status_code in (307, 404)


def test_a_refusal_is_in_the_form_that_the_clients_of_openai_read(server: Engineless) -> None:
    answer = ask(server, "GET", "/v1/models", "sk-wrong")
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "sk-wrong" not in answer.text


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic KEY", "KEY", "Bearer  KEY", "Bearer KEY x", "Bearer é"]
)
def test_only_a_bearer_token_is_a_key(value: str, server: Engineless, keys: dict[str, str]) -> None:
    header = value.replace("KEY", keys["plain"]).encode("latin-1")
    answer = server.runner.run(server.client.get("/v1/models", headers=[(b"authorization", header)]))
    assert answer.status_code == 401


def test_a_browser_may_ask_before_it_calls(server: Engineless) -> None:
    headers = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    answer = ask(server, "OPTIONS", "/v1/completions", None, headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "http://page")
    assert ask(server, "OPTIONS", "/v1/completions", None, headers={"Origin": "http://page"}).status_code == 401


def test_a_web_socket_without_a_key_is_closed_before_it_opens(server: Engineless, keys: dict[str, str]) -> None:
    async def connect(key: str, **extensions: Any) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"} if not sent else {"type": "websocket.disconnect", "code": 1000}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "websocket",
            "path": "/v1/realtime",
            "raw_path": b"/v1/realtime",
            "query_string": b"",
            "root_path": "",
            "subprotocols": [],
            "headers": [(b"authorization", f"Bearer {key}".encode())],
            "extensions": extensions,
        }
        await server.app(scope, receive, send)
        return sent

    (closed,) = server.runner.run(connect("sk-wrong"))
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    answered = server.runner.run(connect("sk-wrong", **{"websocket.http.response": {}}))
    assert answered[0]["status"] == 401
    with pytest.raises(AttributeError, match="openai_serving_realtime"):  # the route is reached
        server.runner.run(connect(keys["plain"]))


@pytest.mark.parametrize("prefix", ["", "/proxy"])
def test_a_root_path_changes_nothing(
    prefix: str, server: Engineless, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.app, "root_path", "/proxy")
    assert ask(server, "GET", f"{prefix}/health", None).status_code == 200
    assert ask(server, "GET", f"{prefix}/v1/models", None).status_code == 401
    assert ask(server, "GET", f"{prefix}/v1/models", keys["plain"]).status_code == 200
    assert ask(server, "POST", f"{prefix}/sleep", keys["plain"]).status_code == 403
    assert ask(server, "GET", f"{prefix}{prefix}/health", None).status_code == (401 if prefix else 200)


# limits


PROMPT = "a" * 50
ASKED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": PROMPT}], "max_completion_tokens": 2},
    "/v1/responses": {"input": PROMPT, "max_output_tokens": 2},
    "/v1/messages": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2},
    "/inference/v1/generate": {"token_ids": [5] * 50, "sampling_params": {"max_tokens": 2}},
}
each_api = pytest.mark.parametrize("path", ASKED)


@pytest.fixture
def new_key(
    server: Engineless, keys_file: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., str]:
    """Makes a key that the running server knows at once."""
    monkeypatch.setattr("longrope_vllm.server.doors.keyring._LOOK_AGAIN", 0.0)
    names = iter(range(100))

    def new(**limits: int) -> str:
        name = re.sub(r"\W", "_", f"{request.node.name[-40:]}{next(names)}").strip("_")
        return add_key(keys_file, name, limits=Limits(**limits), admin=False)

    return new


def post(server: Engineless, path: str, key: str, **more: Any) -> httpx.Response:
    return ask(server, "POST", path, key, json={"model": "tiny", **ASKED[path], **more})


@each_api
@pytest.mark.parametrize("stream", [False, True])
def test_every_way_to_the_engine_is_charged_by_its_tokens(
    path: str, stream: bool, server: Engineless, new_key: Callable[..., str]
) -> None:
    key = new_key(tokens_per_minute=120)
    before = len(server.engine.prompts)
    answers = [post(server, path, key, stream=stream) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429], answers[0].text
    assert len(server.engine.prompts) == before + 2
    assert answers[0].headers["x-ratelimit-limit-tokens"] == "120"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60


@each_api
def test_requests_are_counted_on_every_route(path: str, server: Engineless, new_key: Callable[..., str]) -> None:
    key = new_key(requests_per_minute=1)
    assert [post(server, path, key).status_code for _ in range(2)] == [200, 429]
    assert ask(server, "GET", "/v1/models", key).status_code == 200
    tokens = {"model": "tiny", "prompt": "a"}
    assert ask(server, "POST", "/tokenize", key, json=tokens).status_code == 200


@each_api
def test_a_prompt_that_is_too_long_for_its_key_is_refused_with_the_numbers(
    path: str, server: Engineless, new_key: Callable[..., str]
) -> None:
    answer = post(server, path, new_key(longest_prompt=49), stream=True)
    assert answer.status_code == 400
    assert "at most 49 tokens with this key, found 50" in answer.json()["error"]["message"]


@each_api
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("leaves", [False, True])
def test_the_slot_of_a_long_request_comes_back(
    path: str,
    stream: bool,
    leaves: bool,
    server: Engineless,
    new_key: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = new_key(concurrent_long=1)
    held = asyncio.Event()
    monkeypatch.setattr(server.engine, "held", held, raising=False)

    async def send() -> int:
        body = {"model": "tiny", **ASKED[path], "stream": stream}
        answer = await server.client.post(path, json=body, headers={"Authorization": f"Bearer {key}"})
        return answer.status_code

    async def while_one_runs() -> list[int]:
        entered = len(server.engine.prompts)
        async with asyncio.timeout(20):
            first = asyncio.create_task(send())
            while len(server.engine.prompts) == entered and not first.done():
                await asyncio.sleep(0.01)
            statuses = [await send()]
            if leaves:
                first.cancel()
                await asyncio.wait([first])
                held.set()
            else:
                held.set()
                statuses.append(await first)
            return [*statuses, await send()]

    assert server.runner.run(while_one_runs()) == ([429, 200] if leaves else [429, 200, 200])


def test_a_refused_or_failed_request_gives_its_slot_back(
    server: Engineless, new_key: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key(concurrent_long=1)
    for more, status in [({"prompt": "a" * 5000}, 400), ({"max_tokens": 10_000}, 400), ({"model": "no"}, 404)]:
        assert post(server, "/v1/completions", key, **more).status_code == status
    monkeypatch.setattr(server.engine, "failing", True, raising=False)
    assert post(server, "/v1/completions", key).status_code == 500
    monkeypatch.setattr(server.engine, "failing", False)
    assert post(server, "/v1/completions", key).status_code == 200


def test_a_request_that_waits_for_its_retry_keeps_its_slot_and_is_charged_once(
    server: Engineless, new_key: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key(concurrent_long=1, tokens_per_minute=1000)
    held = asyncio.Event()
    monkeypatch.setattr(server.engine, "held", held)
    body = {"model": "tiny", **ASKED["/v1/completions"]}
    headers = {"Authorization": f"Bearer {key}", "x-stainless-retry-count": "0", "x-stainless-read-timeout": "1"}

    async def send(**more: str) -> httpx.Response:
        return await server.client.post("/v1/completions", json=body, headers={**headers, **more})

    async def retried() -> tuple[int, int, int, int]:
        async with asyncio.timeout(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(send(), 1.5)
            other = await send(**{"x-stainless-retry-count": "0", "idempotency-key": "another"})
            again = asyncio.create_task(send(**{"x-stainless-retry-count": "1"}))
            await asyncio.sleep(0.1)
            held.set()
            joined = await again
            left = int(joined.headers["x-ratelimit-remaining-tokens"])
            return other.status_code, joined.status_code, left, (await send(**{"idempotency-key": "b"})).status_code

    other, joined, left, after = server.runner.run(retried())
    assert (other, joined, after) == (429, 200, 200)
    assert left >= 945


def test_a_limit_that_nobody_holds_is_refused(
    server: Engineless, new_key: Callable[..., str], keys: dict[str, str]
) -> None:
    limited, state = new_key(tokens_per_minute=100), server.app.state
    kept = state.longrope_long
    del state.longrope_long
    try:
        assert post(server, "/v1/completions", limited).json()["error"]["code"] == "limits_not_held"
        assert post(server, "/v1/completions", keys["admin"]).status_code == 200
    finally:
        state.longrope_long = kept


def test_a_full_server_says_when_to_come_back(
    server: Engineless, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.exceptions import MaxQueuedTokensError

    def full(*_: Any, **__: Any) -> None:
        raise MaxQueuedTokensError

    monkeypatch.setattr(server.engine, "check_admission", full)
    answer = post(server, "/v1/completions", keys["plain"])
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-longrope-queued-tokens"] == "0"


@pytest.mark.parametrize(("metrics", "without", "plain"), [(None, 200, 200), ("open", 200, 200), ("off", 404, 404)])
def test_metrics_have_a_switch_of_their_own(
    metrics: Any, without: int, plain: int, checkpoint: Path, keys: dict[str, str]
) -> None:
    with engineless(checkpoint, doors=DoorSettings(metrics=metrics)) as started:
        found = ask(started, "GET", "/metrics", None).status_code, ask(started, "GET", "/metrics/", None).status_code
        assert found == (without, without)
