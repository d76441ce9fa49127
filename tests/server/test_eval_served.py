"""``longrope eval`` of a real server and of the same checkpoint in process: both back ends tell the same figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from longrope_vllm.cli.main import main
from longrope_vllm.server.running import running
from tiny_models import LONG, byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

TIERS = f"512:ntk,{LONG}:yarn"
LOSS_TOLERANCE = 1e-4
"""Nats, of a mean in float32: two engines add in another order."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_tokenizer(tiny_llama(tmp_path_factory.mktemp("evaluated") / "tiny"))


def evaluate(target: str, out: Path, *more: str) -> None:
    """Losses at three lengths; passkeys at the two that have room for them."""
    common = ("eval", target, "--out", str(out), "--documents", "synthetic", "--samples", "2", "--depths", "1")
    assert main([*common, "--tasks", "ppl", "--lengths", "256,512,1000", *more]) == 0
    assert main([*common, "--tasks", "passkey", "--lengths", "512,1000", *more]) == 0


def records(out: Path, method: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Of one method, by what is measured."""
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    names = ("task", "length", "group", "sample")
    return {tuple(str(line[name]) for name in names): line for line in lines if line["method"] == method}


def test_a_server_and_the_model_in_process_agree_at_every_length(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate(str(model), out, "--tiers", f"here={TIERS}", "--dtype", "float32")
    serve = ["serve", str(model), "--tiers", TIERS, "--dtype", "float32", "--max-model-len", str(LONG)]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with running(
        "longrope_vllm.cli.main", [*serve, "--enforce-eager"], environment=environment, log=tmp_path / "log"
    ) as server:
        evaluate(server.url, out, "--label", "served", "--concurrency", "3")
    here, served = records(out, "here"), records(out, "served")
    assert here.keys() == served.keys()
    assert {(key[0], key[1]) for key in here} == {
        *(("ppl", length) for length in ("256", "512", "1000")),
        *(("passkey", length) for length in ("512", "1000")),
    }
    for key, record in here.items():
        other = served[key]
        assert other.get("answer") == record.get("answer")
        if key[0] == "ppl":
            assert other["values"]["loss"] == pytest.approx(record["values"]["loss"], abs=LOSS_TOLERANCE)
            assert other["values"]["tokens"] == record["values"]["tokens"] == int(key[1]) - 1
        else:
            assert other["tier"] == record["tier"] == {"512": 512, "1000": LONG}[key[1]]
