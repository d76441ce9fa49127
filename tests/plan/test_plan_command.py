"""``longrope plan MODEL`` as a user meets it; the examples of docs/plan.md are what it prints."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.cli.main import main
from longrope_vllm.errors import EXIT_CODE
from longrope_vllm.plan.command import DOES_NOT_FIT
from published_models import LLAMA3_8B, LLAMA3_70B, saved

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = re.findall(r"^\$ longrope (plan .*?)\n(.*?)^```$", (DOCS / "plan.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory holds the configurations of two models."""
    saved(tmp_path / "llama-3-8b", LLAMA3_8B)
    saved(tmp_path / "llama-3-70b", LLAMA3_70B)
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture[str], command: str, status: int = 0) -> str:
    assert main(shlex.split(command)) == status
    return capsys.readouterr().out


def planned(capsys: pytest.CaptureFixture[str], command: str, status: int = 0) -> Any:
    return json.loads(printed(capsys, f"{command} --json", status))


@pytest.mark.parametrize(("command", "output"), EXAMPLES)
def test_the_page_shows_what_the_command_prints(command: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = DOES_NOT_FIT if "does not fit" in output else 0
    assert printed(capsys, command.replace("\\\n", " "), status) == output


def test_the_page_has_both_examples_values_and_one_that_does_not_fit() -> None:
    commands = " | ".join(command for command, _ in EXAMPLES)
    for part in (
        "llama-3-8b --context 1M --gpus 8xH100-80",
        "llama-3-70b --context 2M",
        "--helm-values",
        "--gpus h100",
    ):
        assert part in commands


def test_every_field_of_the_json_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "plan llama-3-8b --context 1M --gpus 8xH100-80")
    page = (DOCS / "plan.md").read_text()
    for group, fields in found.items():
        assert f"`{group}`" in page
        for field in fields if isinstance(fields, dict) else ():
            assert f"`{field}`" in page, f"{group}.{field}"


def test_bytes_of_the_json_are_those_of_the_known_facts(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "plan llama-3-8b --context 1M --gpus 8xH100-80")
    assert found["fits"]
    assert found["model"]["kv_bytes_per_token"] == 128 << 10
    assert 8 * found["gpu_memory"]["kv_of_a_sequence"] == 128 << 30
    assert found["layout"] == {"tensor_parallel": 8, "pipeline_parallel": 1, "nodes": 1}
    assert found["time"]["best"] == pytest.approx(95, rel=0.01)


def test_what_is_asked_for_stands_in_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    wish = "--kv-cache-dtype fp8 --quantization fp8 --max-num-seqs 7 --max-num-batched-tokens 4096 --tiers 1M:yarn"
    found = planned(capsys, f"plan llama-3-8b --context 1M --gpus h200 {wish} --gpu-memory-utilization 0.95")
    (line,) = found["launch"]["commands"]
    for option in (*wish.split("--")[1:], "gpu-memory-utilization 0.95"):
        assert f"--{option.strip()}" in line
    assert found["model"]["quantization"] == "fp8"
    assert found["gpu_memory"]["weights"] < 10e9


def test_every_node_has_a_command_and_only_the_first_answers(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "plan llama-3-70b --context 2M --gpus 2x8xH100-80")
    first, second = found["launch"]["commands"]
    assert "--nnodes 2 --node-rank 0 --master-addr HEAD" in first
    assert "--headless" not in first
    assert "--node-rank 1" in second
    assert second.endswith("--headless")


def test_what_does_not_fit_says_what_would_and_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "plan llama-3-8b --context 1M --gpus 2xh100", DOES_NOT_FIT)
    assert not found["fits"]
    options = [remedy.split(":")[0] for remedy in found["remedies"]]
    assert len(options) == 3
    shorter, smaller, larger = options
    assert planned(capsys, f"plan llama-3-8b --gpus 2xh100 {shorter}")["fits"]
    assert planned(capsys, f"plan llama-3-8b --context 1M --gpus 2xh100 {smaller}")["fits"]
    assert planned(capsys, f"plan llama-3-8b --context 1M {larger}")["fits"]


def test_values_are_yaml_and_hold_together(capsys: pytest.CaptureFixture[str]) -> None:
    found = yaml.safe_load(printed(capsys, "plan llama-3-70b --context 2M --gpus 2x8xH100-80 --helm-values"))
    assert found["resources"]["gpus"] * found["pipeline"]["nodes"] == 16
    assert found["pipeline"]["tensor"] * found["pipeline"]["stages"] == 16
    startup = found["probes"]["startup"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == int(found["env"]["VLLM_ENGINE_READY_TIMEOUT_S"])
    assert found["progressDeadlineSeconds"] > int(found["env"]["VLLM_ENGINE_READY_TIMEOUT_S"])
    assert found["gracePeriod"] > found["preStopSeconds"] + found["shutdownTimeout"]
    place = found["args"].index("--shutdown-timeout")
    assert found["args"][place + 1] == str(found["shutdownTimeout"])
    assert int(found["proxy"]["readTimeout"].removesuffix("s")) > found["client"]["timeout"]
    assert found["proxy"]["bodySize"] == "520m"  # docs/nginx.conf
    assert found["keda"]["queuedPromptTokens"] == found["context"] == 2 << 20


def test_values_of_what_does_not_fit_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    output = printed(capsys, "plan llama-3-8b --context 1M --gpus h100 --helm-values", DOES_NOT_FIT)
    assert "does not fit" in output
    assert "resources" not in output


def test_the_context_is_that_of_the_factors_unless_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(capsys, "plan llama-3-8b --gpus h100")["batch"]["context"] == 8192
    write_factors("far.json", Factors.from_baseline("yarn", Geometry.from_config(LLAMA3_8B), 65536))
    found = planned(capsys, "plan llama-3-8b --gpus h100 --factors far.json")
    assert found["batch"]["context"] == 65536
    assert list(found["gpu_memory"]["rope_tables_by_tier"]) == ["8192", "65536"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("plan none --gpus h100", "Expected a checkpoint directory or a model name"),
        ("plan ./none --gpus h100", "Expected a checkpoint directory or a model name"),
        ("plan llama-3-8b --gpus tpu", "Expected GPUs such as"),
        ("plan llama-3-8b --gpus 5xh100 --context 1M --tiers 64k:yarn", "Expected factors that reach the 1M tokens"),
        ("plan llama-3-8b --gpus h100 --context far", "Expected a length in tokens"),
        (
            "plan llama-3-8b --gpus h100 --max-num-batched-tokens 8 --max-num-seqs 9",
            "at least as many tokens in a step",
        ),
        ("plan llama-3-8b --gpus h100 --utilisation fast", "Expected a share of the peak"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)) == EXIT_CODE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_a_name_on_the_hub_without_a_network_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub.constants", reason="names are looked up by it")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    assert main(["plan", "longrope-vllm/surely-not-there", "--gpus", "h100"]) == EXIT_CODE
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Without a network, name a directory" in captured.err


def test_planning_loads_neither_vllm_nor_transformers() -> None:
    import subprocess
    import sys

    script = "import sys, longrope_vllm.plan.command; print(sorted({'vllm', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_server_on_the_cpu_is_planned_with_the_cache_of_one_sequence_or_a_stated_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = "plan llama-3-8b --context 32k --tiers 32k:yarn --cpu"
    output = printed(capsys, command)
    assert "VLLM_CPU_KVCACHE_SPACE=4 longrope serve llama-3-8b --tiers 32k:yarn --max-model-len 32768" in output
    found = planned(capsys, f"{command} 5")
    parts = found["cpu_memory"]
    assert parts["cache"] == 5 << 30
    assert parts["kv_of_a_sequence"] == 4 << 30
    assert parts["needed"] == sum(parts.values()) - parts["needed"] - parts["kv_of_a_sequence"]
    assert "does not fit" in printed(capsys, f"{command} 3", DOES_NOT_FIT)
    assert main(shlex.split(f"{command} --helm-values")) == EXIT_CODE
