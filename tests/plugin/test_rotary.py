"""The rotary embedding alone, without an engine, beside stock vLLM's class for the same block."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="the classes are vLLM's")

from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import phi3_long_rope_scaled_rope as stock

from longrope_vllm.plugin import rotary
from longrope_vllm.plugin.tiers import MARK
from longrope_vllm.rope import apply_rotary

WINDOW, LENGTH, PAIRS, HEADS = 256, 9000, 16, 2
SHORT, LONG = [1.0] * PAIRS, [1.0 + 2.5 * i for i in range(PAIRS)]
BLOCK: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": WINDOW,
    "short_mscale": 1.0,
    "long_mscale": 1.19,
}
CONFIG = {
    "model_type": "llama",
    "hidden_size": HEADS * 2 * PAIRS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": LENGTH,
    "original_max_position_embeddings": WINDOW,
    "rope_parameters": BLOCK,
}


def made(
    monkeypatch: pytest.MonkeyPatch, kind: Any, dtype: torch.dtype, *, length: int = LENGTH, **settings: str
) -> Any:
    """An embedding of ``kind`` as ``get_rope`` makes it on a server of ``length`` tokens."""
    asked = SimpleNamespace(
        model_config=SimpleNamespace(hf_text_config=SimpleNamespace(to_dict=lambda: CONFIG), max_model_len=length),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=64, max_num_seqs=4, **{MARK: length > WINDOW}),
        speculative_config=SimpleNamespace(
            num_speculative_tokens=3, target_model_config=SimpleNamespace(max_model_len=LENGTH)
        ),
        additional_config={"longrope": settings},
    )
    for module in (rotary, stock):
        monkeypatch.setattr(module, "get_current_vllm_config", lambda: asked)
    with set_current_vllm_config(VllmConfig()):
        return kind(
            2 * PAIRS, 2 * PAIRS, LENGTH, WINDOW, 10_000.0, True, dtype, SHORT, LONG, short_mscale=1.0, long_mscale=1.19
        )


def test_a_step_of_all_tiers_is_rotated_as_each_row_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = made(monkeypatch, rotary.TieredRotaryEmbedding, torch.float32)
    positions = torch.tensor([0, 255, 255, 8999, 3])
    offsets = torch.tensor([ours.served.row_offsets[tier] for tier in (0, 0, 1, 1, 1)])
    ours.take_rows(positions, offsets)
    query, key = torch.randn(2, 5, HEADS * 2 * PAIRS, generator=torch.Generator().manual_seed(0)).unbind(0)
    expected = [
        apply_rotary(states.view(5, HEADS, -1), ours.table.read(positions + offsets)) for states in (query, key)
    ]
    for found, right in zip(ours(torch.arange(5), query.clone(), key.clone()), expected, strict=True):
        torch.testing.assert_close(found.view(5, HEADS, -1), right, rtol=0.0, atol=1e-6)


def test_the_rows_of_a_step_have_the_dtype_of_the_model_and_room_for_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = made(monkeypatch, rotary.TieredRotaryEmbedding, torch.bfloat16)
    assert ours.cos_sin_cache.dtype is torch.bfloat16
    assert ours.cos_sin_cache.shape == (64 + 4 * 3, 2 * PAIRS)
    positions = torch.arange(8900, 8976)
    ours.take_rows(positions, torch.zeros_like(positions))
    assert torch.equal(ours.cos_sin_cache, ours.table.read(positions).bfloat16())


def test_match_hf_gives_the_rows_of_the_stock_class_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = made(monkeypatch, stock.Phi3LongRoPEScaledRotaryEmbedding, torch.float32).long_short_cos_sin_cache
    matching = made(monkeypatch, rotary.TieredRotaryEmbedding, torch.float32, angles="match-hf")
    exact = made(monkeypatch, rotary.TieredRotaryEmbedding, torch.float32)
    positions = torch.arange(LENGTH)
    assert torch.equal(matching.table.read(positions), theirs[WINDOW:])
    difference = (exact.table.read(positions) - theirs[WINDOW:]).abs().max()
    assert 1e-5 < difference < 2e-3
    assert exact.table.nbytes < matching.table.nbytes / 4


def test_the_own_tier_shares_the_stock_rows_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = made(monkeypatch, stock.Phi3LongRoPEScaledRotaryEmbedding, torch.float32).long_short_cos_sin_cache
    ours = made(monkeypatch, rotary.TieredRotaryEmbedding, torch.float32)
    assert torch.equal(ours.table.read(ours.served.row_offsets[0] + torch.arange(WINDOW)), theirs[:WINDOW])


def test_a_drafter_has_the_longest_tier_by_true_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    target = made(monkeypatch, rotary.TieredRotaryEmbedding, torch.bfloat16)
    with rotary.fresh_tables(drafter=True):
        drafter = made(monkeypatch, rotary.TieredRotaryEmbedding, torch.bfloat16)
    assert (target.by_step, drafter.by_step) == (True, False)
    assert torch.equal(drafter.cos_sin_cache, target.table.read(torch.arange(LENGTH)).bfloat16())
    assert not hasattr(drafter, "places")


def test_a_drafter_that_ends_before_its_target_has_a_row_for_every_position(monkeypatch: pytest.MonkeyPatch) -> None:
    with rotary.fresh_tables(drafter=True):
        whole, shorter = (
            made(monkeypatch, rotary.TieredRotaryEmbedding, torch.bfloat16, length=length) for length in (LENGTH, 1000)
        )
    assert torch.equal(shorter.cos_sin_cache[:1000], whole.cos_sin_cache[:1000])
    assert shorter.cos_sin_cache.shape == whole.cos_sin_cache.shape
    assert (shorter.cos_sin_cache[1000:] == shorter.cos_sin_cache[999]).all()


def test_a_server_of_one_tier_has_its_rows_by_true_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = made(monkeypatch, stock.Phi3LongRoPEScaledRotaryEmbedding, torch.bfloat16).long_short_cos_sin_cache
    ours = made(monkeypatch, rotary.TieredRotaryEmbedding, torch.bfloat16, length=WINDOW)
    assert torch.equal(ours.cos_sin_cache, theirs[:WINDOW])


def test_models_that_are_loaded_one_after_the_other_share_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers.rotary_embedding import _ROPE_DICT

    monkeypatch.setitem(_ROPE_DICT, "ours", made(monkeypatch, rotary.TieredRotaryEmbedding, torch.float32))
    monkeypatch.setitem(_ROPE_DICT, "another model's", torch.nn.Identity())
    with rotary.fresh_tables(drafter=False):
        assert "ours" not in _ROPE_DICT
        assert "another model's" in _ROPE_DICT
