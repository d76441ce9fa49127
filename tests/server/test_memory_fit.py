"""What ``longrope serve`` refuses for its memory, what it sets, and where it says nothing. No engine is started."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longrope_vllm.chosen_factors import ChosenFactors
from longrope_vllm.errors import UnsupportedError
from longrope_vllm.server import memory_fit
from longrope_vllm.server.memory_fit import Room
from published_models import LLAMA3_8B

pytest.importorskip("vllm", reason="the options are vLLM's")

GB = 10**9
Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Prepares a server of Llama 3 8B by its configuration, up to a million tokens, on a GPU of so many GB."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA3_8B))
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)

    def prepare(*options: str, gigabytes: float, cache: int | None = None, **changes: Any) -> str:
        from longrope_vllm.server.launch import prepare

        if changes:
            (tmp_path / "config.json").write_text(json.dumps(LLAMA3_8B | changes))
        room = Room(total=int(gigabytes * GB), share=0.92, cache=cache, name="each GPU", cache_option="--an-option")
        monkeypatch.setattr(memory_fit, "memory_of_a_worker", lambda arguments: room)
        return prepare(ChosenFactors(methods="1M:yarn"), [str(tmp_path), *options])[1]

    return prepare


def test_a_server_that_fits_says_what_there_is_room_for(serve: Serve) -> None:
    banner = serve("--tensor-parallel-size", "8", gigabytes=80)
    assert (
        "longrope: memory 2.0 GB of weights; 71.6 GB for keys and values: up to 4.2 sequences of 1M (17.2 GB" in banner
    )


def test_one_that_does_not_fit_is_refused_with_what_would(serve: Serve) -> None:
    with pytest.raises(UnsupportedError) as caught:
        serve(gigabytes=80)
    said = str(caught.value)
    assert "one sequence of 1,048,576 tokens, 137.4 GB of keys and values beside 16.1 GB of weights" in said
    assert "found 57.5 GB for it: set --max-model-len to 428k or less, take --kv-cache-dtype fp8" in said
    assert "428k" in said
    serve("--max-model-len", str(428 << 10), gigabytes=80)
    with pytest.raises(UnsupportedError, match=r"found 57\.5 GB"):
        serve("--max-model-len", str(430 << 10), gigabytes=80)


def test_no_length_is_named_where_none_fits(serve: Serve) -> None:
    with pytest.raises(UnsupportedError, match=r"found 0\.1 GB for it: take --kv-cache-dtype fp8"):
        serve(gigabytes=80, cache=10**8)


def test_weights_alone_may_be_too_much(serve: Serve) -> None:
    with pytest.raises(UnsupportedError, match=r"Expected memory for 16\.1 GB of weights in each GPU, found 14\.7"):
        serve("--max-model-len", "-1", gigabytes=16)


def test_a_cache_of_a_stated_size_is_what_counts(serve: Serve) -> None:
    with pytest.raises(UnsupportedError, match=r"found 4\.3 GB for it: .* or raise --an-option"):
        serve(gigabytes=80, cache=4 << 30)
    with pytest.raises(UnsupportedError, match=r"16\.1 GB of weights and 68\.7 GB of keys and values in each GPU"):
        serve("--max-model-len", "8192", gigabytes=80, cache=64 << 30)
    assert "4.0 sequences of 8k" in serve("--max-model-len", "8192", gigabytes=80, cache=4 << 30)


def test_a_length_that_vllm_fits_to_the_memory_is_not_refused(serve: Serve) -> None:
    assert "longrope: memory" not in serve("--max-model-len", "-1", gigabytes=24)
    assert "longrope: memory" not in serve("--max-model-len", "auto", gigabytes=24)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (["--quantization", "fp8"], {}),
        (["--cpu-offload-gb", "100"], {}),
        (["--num-gpu-blocks-override", "10"], {}),
        (["--load-format", "gguf"], {}),
        ([], {"kv_lora_rank": 512}),
        ([], {"quantization_config": {"quant_method": "of-the-future"}}),
    ],
)
def test_nothing_is_said_where_the_memory_is_not_known(
    options: list[str], changes: dict[str, Any], serve: Serve
) -> None:
    assert "longrope: memory" not in serve(*options, gigabytes=8, **changes)


def test_a_quantized_checkpoint_may_have_a_smaller_cache(serve: Serve) -> None:
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    assert "(68.7 GB each)" in serve(gigabytes=141, quantization_config=fp8)


@pytest.mark.parametrize(
    ("default", "given", "expected"),
    [
        (1024, (), 128),
        (1024, ("--max-num-batched-tokens", "100"), 100),
        (1024, ("--max-num-seqs", "700"), None),
        (64, (), None),
    ],
)
def test_fewer_sequences_run_at_once_where_their_tokens_would_fill_the_host(
    default: int, given: tuple[str, ...], expected: int | None, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    monkeypatch.setattr(EngineArgs, "get_batch_defaults", lambda ranks: ({}, {UsageContext.OPENAI_API_SERVER: default}))
    banner = serve(*given, "--tensor-parallel-size", "8", gigabytes=80)
    said = f"longrope: batch  {expected} sequences at once (--max-num-seqs): arrays for {default:,} would take"
    assert (said in banner) == ("longrope: batch" in banner) == (expected is not None)


def test_the_memory_of_this_machine_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vllm.platforms import current_platform

    from longrope_vllm.server.launch import parse_engine_options

    if not current_platform.is_cpu():
        pytest.skip("the CPU engine's rules")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA3_8B))
    room = memory_fit.memory_of_a_worker(parse_engine_options([str(tmp_path)]))
    assert room is not None
    assert (room.cache, room.usable) == (3 << 30, room.total)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    room = memory_fit.memory_of_a_worker(parse_engine_options([str(tmp_path)]))
    assert room is not None
    assert room.cache is None
    assert room.usable == pytest.approx(0.92 * room.total, rel=1e-6)
    assert memory_fit.memory_of_a_worker(parse_engine_options([str(tmp_path), "-tp", "2"])) is None
