"""Bytes of keys and values: per token, per GPU, with windows; and vLLM's own arithmetic as oracle."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope_vllm.plan.kv_cache import longest_sequence, sequence_bytes, token_bytes
from longrope_vllm.plan.layout import Layout
from longrope_vllm.plan.served_model import ServedModel
from published_models import LLAMA2_7B, LLAMA3_8B, MISTRAL_7B, PHI3_MINI, SMOLLM2

KIB, GIB = 1 << 10, 1 << 30
ONE = Layout(tensor=1, pipeline=1)
EIGHT = Layout(tensor=8, pipeline=1)


@pytest.mark.parametrize(
    ("config", "kibibytes"),
    [(LLAMA3_8B, 128), (MISTRAL_7B, 128), (PHI3_MINI, 384), (LLAMA2_7B, 512), (SMOLLM2, 22.5)],
)
def test_a_token_takes_what_is_known_of_these_models(config: dict[str, Any], kibibytes: float) -> None:
    model = ServedModel.of(config)
    assert token_bytes(model) == kibibytes * KIB
    assert token_bytes(model, "fp8") == kibibytes * KIB / 2


def test_a_million_tokens_of_llama_3_8b_take_128_gib_over_eight_gpus() -> None:
    model = ServedModel.of(LLAMA3_8B)
    assert 8 * sequence_bytes(model, EIGHT, 1 << 20, chunk=8192) == 128 * GIB
    assert 8 * sequence_bytes(model, EIGHT, 1 << 21, chunk=8192) == 256 * GIB


def test_heads_that_are_fewer_than_gpus_are_copied() -> None:
    model = ServedModel.of(LLAMA3_8B)
    wide = Layout(tensor=16, pipeline=1)
    assert wide.copies(model) == 2
    assert sequence_bytes(model, wide, 1 << 20, chunk=8192) == sequence_bytes(model, EIGHT, 1 << 20, chunk=8192)


def test_stages_share_layers_out_and_the_longest_counts() -> None:
    model = ServedModel.of(SMOLLM2)  # 30 layers
    whole = sequence_bytes(model, ONE, 16384, chunk=2048)
    assert sequence_bytes(model, Layout(tensor=1, pipeline=4), 16384, chunk=2048) == round(whole * 8 / 30)


@pytest.mark.parametrize("tokens", [100, 4096, 20_000, 32_768])
def test_a_window_takes_what_vllm_admits_a_request_with(tokens: int) -> None:
    vllm = pytest.importorskip("vllm.v1.kv_cache_interface", reason="vLLM's own arithmetic is the oracle")
    import torch

    chunk = 2048
    model = ServedModel.of(MISTRAL_7B)
    sliding = vllm.SlidingWindowSpec(
        block_size=16, num_kv_heads=8, head_size=128, dtype=torch.bfloat16, sliding_window=4096
    )
    config = SimpleNamespace(
        max_in_flight_tokens=2 * chunk,
        model_config=SimpleNamespace(max_model_len=tokens),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1),
    )
    most = 32 * sliding.max_memory_usage_bytes(config)
    found = sequence_bytes(model, ONE, tokens, chunk=chunk)
    assert found in (most, most - 32 * sliding.page_size_bytes)  # vLLM counts one block more at the full length


@given(
    tokens=st.integers(1, 1 << 22), chunk=st.sampled_from([0, 2048, 8192]), config=st.sampled_from([LLAMA3_8B, SMOLLM2])
)
def test_the_longest_sequence_is_the_last_that_fits(tokens: int, chunk: int, config: dict[str, Any]) -> None:
    model = ServedModel.of(config)
    memory = sequence_bytes(model, ONE, tokens, chunk=chunk)
    longest = longest_sequence(model, ONE, memory, chunk=chunk)
    assert longest >= tokens
    assert longest - tokens < 16
    assert sequence_bytes(model, ONE, longest + 1, chunk=chunk) > memory
