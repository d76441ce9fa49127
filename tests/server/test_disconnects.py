"""Clients that leave: in each phase of each kind of request by a reset, then two hundred at random.

Nothing of them may stay in the engine, and the others get their answers. The two hundred speak HTTP through a socket of
their own, so that they can leave in the middle of anything. What they do is drawn from a seed; when exactly they leave
is up to the machine. The oracle is what the server answers to the same prompt alone.
"""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import pytest

from fault_proxy import fault_proxy
from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.server.running import running
from tiny_models import LONG, WINDOW, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

OPTIONS = ["--enforce-eager", "--dtype", "float32", "--max-num-batched-tokens", "256", "--served-model-name", "tiny"]
OPTIONS += ["--max-num-seqs", "8"]
CLIENTS = 200
AT_ONCE = 24
"""Three times as many as the engine takes, so that some are queued."""
SEED = 8

Leaves = Literal["while sending", "at once", "soon", "later", "after the first chunk", "never"]
LEAVES: dict[Leaves, float] = {
    "while sending": 0.1,
    "at once": 0.2,
    "soon": 0.2,
    "later": 0.15,
    "after the first chunk": 0.15,
    "never": 0.2,
}
"""When clients leave, and what part of them does: while the body is under way, queued, in their prefill, generating."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """What one client asks and when it leaves. ``retries`` is what an SDK would say; None for other clients."""

    prompt: str
    max_tokens: int
    stream: bool
    leaves: Leaves
    patience: float
    retries: int | None

    def request(self) -> bytes:
        fields = {"model": "tiny", "prompt": self.prompt, "max_tokens": self.max_tokens, "stream": self.stream}
        body = json.dumps({**fields, "temperature": 0, "ignore_eos": True}).encode()
        stated = "" if self.retries is None else f"X-Stainless-Retry-Count: {self.retries}\r\n"
        waits = "X-Stainless-Read-Timeout: 600\r\n" if self.retries == 0 else "X-Stainless-Read-Timeout: 1\r\n"
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\nConnection: close\r\n"
        )
        return f"{head}{stated}{waits}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("disconnects")
    checkpoint = byte_tokenizer(tiny_llama(folder / "model"))
    factors = folder / "factors.json"
    write_factors(factors, Factors.from_baseline("yarn", Geometry.from_checkpoint(checkpoint), LONG))
    options = ["serve", str(checkpoint), "--factors", str(factors), "--files", str(folder / "files"), *OPTIONS]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with running("longrope_vllm.cli.main", options, environment=environment, log=folder / "log") as started:
        yield started.url, folder / "log"


def prompts(random: Random) -> list[tuple[str, int]]:
    """Short ones, long ones, and such as outgrow their tier, with the tokens to generate."""
    lengths = [(30, 12), (120, 12), (WINDOW - 6, 16), (WINDOW + 40, 8), (600, 8), (900, 8)]
    return [("".join(random.choices("abcdefgh ", k=length)), tokens) for length, tokens in lengths]


def clients(random: Random, asked: list[tuple[str, int]]) -> Iterator[Client]:
    for _ in range(CLIENTS):
        (leaves,) = random.choices(list(LEAVES), list(LEAVES.values()))
        prompt, tokens = random.choice(asked)
        yield Client(
            prompt=prompt,
            max_tokens=tokens if leaves == "never" else random.choice([tokens, LONG - len(prompt)]),
            stream=leaves == "after the first chunk" or random.random() < 0.3,
            leaves=leaves,
            patience=random.uniform(0.02, 0.15) if leaves == "soon" else random.uniform(0.2, 1.0),
            retries=random.choice([None, 0, 0, 1]),
        )


async def visit(address: str, client: Client) -> str | None:
    """What a client that stays is answered; None for one that left."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        request = client.request()
        if client.leaves == "while sending":
            writer.write(request[: len(request) - 20])
            await writer.drain()
            await asyncio.sleep(0.05)
            return None
        writer.write(request)
        await writer.drain()
        if client.leaves in ("soon", "later"):
            await asyncio.sleep(client.patience)
        elif client.leaves == "after the first chunk":
            await reader.readuntil(b"data: ")
        elif client.leaves == "never":
            return text((await reader.read()).decode(), stream=client.stream)
        return None
    finally:
        writer.transport.abort() if client.leaves != "never" else writer.close()


def text(answer: str, *, stream: bool) -> str:
    """The generated text in a whole HTTP answer."""
    assert answer.startswith("HTTP/1.1 200"), answer[:300]
    if not stream:
        whole: str = json.loads(answer.partition("\r\n\r\n")[2])["choices"][0]["text"]
        return whole
    chunks = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


async def visit_all(address: str, visitors: list[Client]) -> list[str | None]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(client: Client) -> str | None:
        async with places:
            return await visit(address, client)

    return await asyncio.gather(*(one(client) for client in visitors))


def alone(prompt: str, max_tokens: int) -> Client:
    return Client(prompt=prompt, max_tokens=max_tokens, stream=False, leaves="never", patience=0, retries=None)


def gauges(url: str) -> dict[str, float]:
    """What the engine has running and waiting and how full its block pool is, as of its last step."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = [line.rpartition(" ") for line in answer.read().decode().splitlines()]
    return {
        line.partition("{")[0]: float(value)
        for line, _, value in lines
        if line.startswith(tuple(f"{n}{{" for n in names))
    }


async def idle(url: str, address: str) -> dict[str, float]:
    """The gauges once the engine has nothing left to do; it is asked little things, because it counts as it steps."""
    found: dict[str, Any] = {}
    for _ in range(60):
        await visit(address, alone("a", 1))
        found = gauges(url)
        if not any(found.values()):
            break
        await asyncio.sleep(0.5)
    return found


Phase = Literal["preparing", "queued", "prefill", "generating"]

PHASES: dict[Phase, tuple[int, int]] = {
    "preparing": (3_000_000, 1),
    "queued": (40, 50),
    "prefill": (LONG - 60, 50),
    "generating": (40, LONG - 60),
}
"""Characters of a prompt and tokens of an answer with which a request spends some time there."""

KINDS = ["chat", "chat stream", "completions", "completions stream", "responses", "responses stream", "retried", "file"]


def question(kind: str, text: str, tokens: int, file_id: str) -> tuple[str, dict[str, Any]]:
    """Route and body of a request with the prompt ``text``; one with a file has half of its text in there."""
    fields = {"model": "tiny", "ignore_eos": True, "stream": kind.endswith("stream")}
    if kind.startswith("responses"):
        return "/v1/responses", {**fields, "input": text, "max_output_tokens": tokens}
    if kind.startswith(("completions", "retried")):
        return "/v1/completions", {**fields, "prompt": text, "max_tokens": tokens}
    parts = [{"type": "text", "text": text}]
    if kind == "file":
        parts.insert(0, {"type": "file", "file": {"file_id": file_id}})
    return "/v1/chat/completions", {
        **fields,
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": tokens,
    }


async def leave(client: httpx.AsyncClient, kind: str, phase: Phase, *, name: str, file_id: str, random: Random) -> bool:
    """Ask, and reset the connection once the server says that the request is in ``phase``; False if it was quicker."""
    length, tokens = PHASES[phase]
    text = "".join(random.choices("abcdefgh ", k=min(length, LONG))) * max(1, length // LONG)
    route, body = question(kind, text, tokens - (30 if kind == "file" else 0), file_id)
    headers = {"X-Request-Id": name} | ({"X-Stainless-Retry-Count": "0"} if kind == "retried" else {})
    async with fault_proxy(str(client.base_url)) as proxy:
        asking = asyncio.create_task(client.post(f"{proxy.url}{route}", json=body, headers=headers))
        reached = await is_reached(client, name, phase)
        proxy.reset()
        (answer,) = await asyncio.gather(asking, return_exceptions=True)
    if not reached:
        return False
    assert isinstance(answer, httpx.TransportError), answer
    assert await end(client, name) == "aborted"
    return True


async def is_reached(client: httpx.AsyncClient, name: str, phase: Phase) -> bool:
    while True:
        report = await client.get(f"/v1/requests/{name}")
        if report.status_code == 404:  # still under way
            continue
        state = report.json()["state"]
        if state == phase:
            return True
        if list(PHASES).index(phase) < [*PHASES, "finished", "aborted"].index(state):
            return False


async def end(client: httpx.AsyncClient, name: str) -> str:
    while True:
        state: str = (await client.get(f"/v1/requests/{name}")).json()["state"]
        if state in ("finished", "aborted"):
            return state
        await asyncio.sleep(0.05)


async def leave_surely(client: httpx.AsyncClient, kind: str, phase: Phase, *, file_id: str, random: Random) -> None:
    for attempt in range(100):
        if await leave(client, kind, phase, name=f"{kind}-{phase}-{attempt}", file_id=file_id, random=random):
            return
    raise AssertionError(f"no {kind} was seen in its {phase}")


@pytest.fixture(scope="module")
def file_id(server: tuple[str, Path]) -> str:
    answer = httpx.post(f"{server[0]}/v1/files", data={"purpose": "user_data"}, files={"file": ("a.txt", b"text")})
    name: str = answer.json()["id"]
    return name


def check_idle(url: str) -> None:
    found = asyncio.run(idle(url, urlsplit(url).netloc))
    assert len(found) == 3
    assert not any(found.values()), found


@pytest.mark.parametrize("phase", ["preparing", "prefill", "generating"])
def test_a_reset_frees_a_request_of_any_kind_in_any_phase(phase: Phase, server: tuple[str, Path], file_id: str) -> None:
    async def run() -> None:
        async with asyncio.timeout(200), httpx.AsyncClient(base_url=server[0], timeout=60) as client:
            for kind in KINDS:
                await leave_surely(client, kind, phase, file_id=file_id, random=Random(f"{kind} {phase}"))

    asyncio.run(run())
    check_idle(server[0])


def test_a_reset_frees_a_request_of_any_kind_in_the_queue(server: tuple[str, Path], file_id: str) -> None:
    url, random = server[0], Random(SEED)
    before = {"model": "tiny", "prompt": "a", "max_tokens": LONG - 20, "ignore_eos": True}

    async def run() -> None:
        async with (
            asyncio.timeout(200),
            fault_proxy(url) as proxy,
            httpx.AsyncClient(base_url=url, timeout=200) as client,
        ):
            asking = [asyncio.create_task(client.post(f"{proxy.url}/v1/completions", json=before)) for _ in range(16)]
            while gauges(url)["vllm:num_requests_running"] < 8:
                await asyncio.sleep(0.02)
            leaving = (
                leave(client, kind, "queued", name=f"{kind}-queued", file_id=file_id, random=random) for kind in KINDS
            )
            assert all(await asyncio.gather(*leaving))
            proxy.reset()
            await asyncio.gather(*asking, return_exceptions=True)

    asyncio.run(run())
    check_idle(url)


def test_a_request_that_two_wait_for_goes_on_until_the_second_is_reset(server: tuple[str, Path]) -> None:
    url = server[0]
    body = {"model": "tiny", "prompt": "shared", "max_tokens": LONG - 20, "ignore_eos": True}
    headers = {"Idempotency-Key": "shared", "X-Request-Id": "shared"}

    async def run() -> None:
        async with (
            asyncio.timeout(200),
            fault_proxy(url) as first,
            fault_proxy(url) as second,
            httpx.AsyncClient(base_url=url, timeout=60) as client,
        ):
            asking = []
            for proxy in (first, second):
                asking.append(
                    asyncio.create_task(client.post(f"{proxy.url}/v1/completions", json=body, headers=headers))
                )
                assert await is_reached(client, "shared", "generating")
            await asyncio.sleep(0.1)  # the second one joins what runs, which nothing tells
            first.reset()
            await asyncio.sleep(0.1)
            assert (await client.get("/v1/requests/shared")).json()["state"] == "generating"
            second.reset()
            assert await end(client, "shared") == "aborted"
            answers = await asyncio.gather(*asking, return_exceptions=True)
            assert all(isinstance(answer, httpx.TransportError) for answer in answers)

    asyncio.run(run())
    check_idle(url)


def test_a_slow_upload_is_answered_and_half_a_body_leaves_nothing(server: tuple[str, Path]) -> None:
    url = server[0]
    body = {"model": "tiny", "prompt": "slowly " * 40, "max_tokens": 5, "temperature": 0, "ignore_eos": True}

    async def run() -> None:
        async with asyncio.timeout(100), httpx.AsyncClient(timeout=60) as client:
            at_once = (await client.post(f"{url}/v1/completions", json=body)).json()
            async with fault_proxy(url, piece=50, pause=0.02) as slow:
                slowly = (await client.post(f"{slow.url}/v1/completions", json=body)).json()
            assert slowly["choices"] == at_once["choices"]
            async with fault_proxy(url, upload=400) as half:
                headers = {"X-Request-Id": "half"}
                asking = asyncio.create_task(client.post(f"{half.url}/v1/completions", json=body, headers=headers))
                await half.withheld.wait()
                half.reset()
                (answer,) = await asyncio.gather(asking, return_exceptions=True)
                assert isinstance(answer, httpx.TransportError)
            assert (await client.get(f"{url}/v1/requests/half")).status_code == 404

    asyncio.run(run())
    check_idle(url)


def test_two_hundred_clients_come_and_go_and_leave_nothing_behind(server: tuple[str, Path]) -> None:
    url, log = server
    address = urlsplit(url).netloc
    random = Random(SEED)
    asked = prompts(random)

    async def run() -> None:
        expected = {prompt: await visit(address, alone(prompt, tokens)) for prompt, tokens in asked}
        visitors = list(clients(random, asked))
        assert {client.leaves for client in visitors} == set(LEAVES)
        answers = await visit_all(address, visitors)
        stayed = [(client, answer) for client, answer in zip(visitors, answers, strict=True) if answer is not None]
        assert len(stayed) == sum(client.leaves == "never" for client in visitors)
        assert [client for client, answer in stayed if answer != expected[client.prompt]] == []
        found = await idle(url, address)
        assert len(found) == 3
        assert not any(found.values()), found
        assert {prompt: await visit(address, alone(prompt, tokens)) for prompt, tokens in asked} == expected

    asyncio.run(run())
    assert "Traceback" not in log.read_text()
