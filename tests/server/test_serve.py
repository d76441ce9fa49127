"""``longrope serve`` as a user meets it: a process, HTTP, SIGTERM. One server for the whole module."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.server.running import running
from tiny_models import LONG, WINDOW, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}
OPTIONS = ["--enforce-eager", "--dtype", "float32", "--max-num-batched-tokens", "256", "--served-model-name", "tiny"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("served")))


@pytest.fixture(scope="module")
def factors(checkpoint: Path) -> Path:
    path = checkpoint.parent / "factors.json"
    write_factors(path, Factors.from_baseline("yarn", Geometry.from_checkpoint(checkpoint), LONG))
    return path


@pytest.fixture(scope="module")
def server(checkpoint: Path, factors: Path) -> Iterator[tuple[str, Path]]:
    """URL and log of a server that gets its factors from a file; the checkpoint itself has none."""
    log = checkpoint.parent / "server.log"
    options = ["serve", str(checkpoint), "--factors", str(factors), *OPTIONS]
    with running("longrope_vllm.cli.main", options, environment=ENVIRONMENT, log=log) as started:
        yield started.url, log


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def complete(url: str, text: str, max_tokens: int = 4) -> Any:
    body = {"model": "tiny", "prompt": text, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def test_the_name_the_address_and_the_tiers_are_printed(server: tuple[str, Path]) -> None:
    url, log = server
    printed = log.read_text()
    assert "longrope: model  tiny" in printed
    assert f"longrope: listen {url}" in printed
    assert f"1–{WINDOW} tokens plain | {WINDOW + 1}–1k tokens longrope" in printed


def test_the_full_length_of_the_factors_is_served_by_default(server: tuple[str, Path]) -> None:
    assert get(f"{server[0]}/v1/models")["data"][0]["max_model_len"] == LONG


def test_the_tiers_in_force_can_be_asked_for(server: tuple[str, Path]) -> None:
    tiers = get(f"{server[0]}/v1/longrope")["tiers"]
    assert [(tier["max_length"], tier["plain"]) for tier in tiers] == [(WINDOW, True), (LONG, False)]


@pytest.mark.parametrize(
    ("length", "max_tokens", "tier", "crossings"), [(50, 4, 0, 0), (500, 4, 1, 0), (250, 20, 1, 1)]
)
def test_the_server_tells_which_tier_served_a_request(
    length: int, max_tokens: int, tier: int, crossings: int, server: tuple[str, Path]
) -> None:
    answer = complete(server[0], "a" * length, max_tokens)
    assert answer["usage"] == {
        **answer["usage"],
        "prompt_tokens": length,
        "completion_tokens": max_tokens,
    }
    assert get(f"{server[0]}/v1/longrope/requests/{answer['id']}") == {
        "tier": tier,
        "tier_max_length": (WINDOW, LONG)[tier],
        "tokens": length + max_tokens,
        "crossings": crossings,
        "reprefilled_tokens": crossings * WINDOW,
    }


def test_an_unknown_request_is_not_found(server: tuple[str, Path]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"{server[0]}/v1/longrope/requests/cmpl-of-nobody")
    with caught.value as error:
        assert error.code == 404


def test_a_prompt_past_the_longest_tier_is_refused_with_the_limit(server: tuple[str, Path]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        complete(server[0], "a" * (LONG + 1))
    with caught.value as error:
        assert error.code == 400
        assert str(LONG) in error.read().decode()


def test_sigterm_ends_the_server_cleanly_and_leaves_no_process(checkpoint: Path, factors: Path, tmp_path: Path) -> None:
    options = ["serve", str(checkpoint), "--factors", str(factors), *OPTIONS]
    log = tmp_path / "server.log"
    with running("longrope_vllm.cli.main", options, environment=ENVIRONMENT, log=log) as started:
        pass
    assert started.process.returncode == 0
    assert group_is_gone(started.process.pid, within=10)  # the server led a group of its own


def group_is_gone(group: int, *, within: float) -> bool:
    """True once no process of ``group`` is left; helpers of the interpreter may outlive its parent by moments."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
