"""The commands of compose and systemd start real servers on the CPU, with keys, and end as their units expect.

Only the paths, the model and what is planned for it are others.
"""

import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from deployed_services import command_of_unit, composed
from longrope_vllm.server.running import RunningServer, running
from smoke_run import smoke
from tiny_models import LONG, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

PLANNED = ["--tiers=1k:yarn", f"--max-model-len={LONG}", "--enforce-eager", "--dtype=float32", "--shutdown-timeout=60"]


def written(by: str) -> list[str]:
    """The words after ``longrope serve MODEL`` and the planned ones: what the file itself says."""
    words = command_of_unit() if by == "systemd" else shlex.split(composed()["longrope"]["command"])
    return words[next(place for place, word in enumerate(words) if word.startswith("--host=")) :]


@pytest.fixture(scope="module", params=["compose", "systemd"])
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, str]]:
    """A server and its key."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = byte_tokenizer(tiny_llama(folder / "model"))
    keys = folder / "keys.toml"
    command = [sys.executable, "-m", "longrope_vllm.cli.main", "keys", "add", "me", "--file", str(keys)]
    key = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    places = {"--keys": keys, "--files": folder / "files"}
    words = [
        f"{name}={places[name]}" if (name := word.partition("=")[0]) in places else word
        for word in written(request.param)
    ]
    assert sum(word.startswith(("--keys=", "--files=")) for word in words) == 2
    options = ["serve", str(checkpoint), *PLANNED, *words]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with running("longrope_vllm.cli.main", options, environment=environment, log=folder / "server.log") as server:
        yield server, key


def test_it_serves_with_its_key_and_ends_by_sigterm(started: tuple[RunningServer, str]) -> None:
    server, key = started
    for path in ("/health", "/health/ready", "/health/progress"):  # the three probes
        with urllib.request.urlopen(f"{server.url}{path}", timeout=30) as answer:
            assert answer.status == 200
    checked = smoke(server.url, key=key)
    assert checked.code == 0, checked.output
    request = urllib.request.Request(f"{server.url}/metrics", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert "longrope_queued_prompt_tokens 0.0" in answer.read().decode()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(90) == 0
