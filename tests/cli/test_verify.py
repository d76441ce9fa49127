"""``longrope verify`` as a user meets it: bad input, real servers of the tiny model, an interrupt."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jsonschema
import pytest

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.cli.main import main
from longrope_vllm.server.running import running
from tiny_models import LONG, WINDOW, byte_tokenizer, stretched, tiny_llama

ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "COLUMNS": "150"}
NOBODY = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("verified") / "tiny"))


@pytest.fixture(scope="module")
def factors(model: Path) -> Path:
    path = model.parent / "factors.json"
    write_factors(path, Factors.from_baseline("yarn", Geometry.from_checkpoint(model), LONG))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "longrope_vllm.cli.main", "verify", *map(str, arguments)]


def verify(*arguments: object, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, **ENVIRONMENT, **(environment or {})}
    return subprocess.run(command(*arguments), env=whole, capture_output=True, text=True, timeout=900)


# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([NOBODY], f"Expected a server at {NOBODY}, found none that answers"),
        ([NOBODY, "--dtype", "float32"], "Expected no options for a server that already runs"),
        ([NOBODY, "--factors", "f.json"], "found --factors f.json"),
        ([NOBODY, "--concurrency", "1"], "Expected a concurrency of at least 2, found 1"),
        ([NOBODY, "--long", "soon"], "Expected a length in tokens"),
        ([NOBODY, "--long", "5"], "Expected --long of at least 64 tokens, found 5"),
        ([NOBODY, "--json", "no/such/folder/report.json"], "Expected a file in an existing folder for --json"),
        (["MODEL", "--reference", NOBODY], "Expected --reference only with the URL of a running server"),
        (["MODEL", "--model", "tiny"], "Expected --model only with the URL of a running server"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *arguments]) == 2
    assert message in capsys.readouterr().err


# real servers


@pytest.mark.vllm
@pytest.mark.slow
def test_our_server_passes_every_check(model: Path, factors: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = verify(model, "--factors", factors, "--dtype", "float32", "--json", path, "--concurrency", 8)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT CHECKED" not in done.stdout
    found = json.loads(path.read_text())
    jsonschema.validate(found, json.loads(schema_text()))
    statuses = {check["name"]: check["status"] for check in found["checks"]}
    assert statuses == {
        "tiers": "passed",
        "noise": "information",
        f"boundary {WINDOW}": "passed",
        f"sensitivity {WINDOW}": "passed",
        f"crossing {WINDOW}": "passed",
        f"crossing under load {WINDOW}": "passed",
        f"neighbours {WINDOW}": "passed",
        f"prefix cache {WINDOW}": "passed",
        "needle": "information",
        "chunk size": "passed",
        "short answers": "passed",
    }
    assert found["passed"] is True
    assert [tier["max_length"] for tier in found["tiers"]] == [WINDOW, LONG]
    load = next(check for check in found["checks"] if check["name"] == f"crossing under load {WINDOW}")
    assert (load["answers"], load["largest_difference"] < 1e-3) == (16, True)


def schema_text() -> str:
    import longrope_vllm.verification as package

    return (Path(package.__path__[0]) / "report.schema.json").read_text()


@pytest.mark.vllm
def test_stock_vllm_with_the_longrope_checkpoint_fails_for_want_of_tiers(tmp_path: Path) -> None:
    checkpoint = stretched(byte_tokenizer(tiny_llama(tmp_path / "tiny-long")))
    options = ["--model", str(checkpoint), "--max-model-len", str(LONG), "--enforce-eager", "--dtype", "float32"]
    stock = ENVIRONMENT | {"VLLM_PLUGINS": ""}
    log, path = tmp_path / "stock.log", tmp_path / "report.json"
    with running("vllm.entrypoints.openai.api_server", options, environment=stock, log=log) as server:
        done = verify(server.url, "--json", path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "is served without tiers" in done.stdout
    assert done.stdout.splitlines()[-2:-1] == ["Failed: tiers."]
    assert json.loads(path.read_text())["passed"] is False


SHARED_CACHE = """
from longrope_vllm.plugin.tiers import ServedTiers
ServedTiers.cache_salt = lambda self, index, client_salt: client_salt
"""


@pytest.mark.vllm
def test_a_server_whose_tiers_share_cached_blocks_fails_the_checks_that_are_for_it(
    model: Path, factors: Path, tmp_path: Path
) -> None:
    # Reaches every process of the server. A request that crosses finds its own blocks, still rotated the old way.
    (tmp_path / "sitecustomize.py").write_text(SHARED_CACHE)
    options = ["serve", str(model), "--factors", str(factors), "--enforce-eager", "--dtype", "bfloat16"]
    faulty, path = ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}, tmp_path / "report.json"
    with running("longrope_vllm.cli.main", options, environment=faulty, log=tmp_path / "server.log") as server:
        done = verify(server.url, "--concurrency", 4, "--json", path)
    assert done.returncode == 1, done.stdout + done.stderr
    checks = json.loads(path.read_text())["checks"]
    failed = [check["name"] for check in checks if check["status"] == "failed"]
    assert failed == [f"crossing {WINDOW}", f"crossing under load {WINDOW}", f"prefix cache {WINDOW}"]


@pytest.mark.vllm
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_server_it_started(number: signal.Signals, code: int, model: Path, factors: Path) -> None:
    process = subprocess.Popen(
        command(model, "--factors", factors, "--dtype", "float32"),
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run in the background ignores SIGINT, and what it starts would inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        assert process.stdout is not None
        assert "server logs:" in process.stdout.readline()
        until(lambda: len(processes_of(model)) > 1, within=30)
        process.send_signal(number)
        assert process.wait(60) == code
    until(lambda: not processes_of(model), within=30)


def processes_of(model: Path) -> list[int]:
    """Processes with the path of ``model``, which no other test has, on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(model).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def until(condition: Callable[[], bool], *, within: float) -> None:
    """Wait for ``condition()``; fail when it does not come true."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
