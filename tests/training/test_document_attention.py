"""Oracles: each document in a row of its own, eager attention under a mask written out, and SDPA of whole rows."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.tolerances import LOGITS, TOLERANCE
from largest_tensor import LargestTensor
from longrope_training.model.document_attention import (
    DOCUMENT_ATTENTION,
    document_attention,
    document_lengths,
    register_document_attention,
)
from longrope_vllm.errors import TrainingError
from training_models import gradients_of, tiny_model, tokens_of

DOCUMENTS = (1, 37, 5, 21)
"""Tokens of each document of a packed row."""


def packed_positions(lengths: Sequence[int]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])[None]


def model_of(name: str, attention: str, **settings: object) -> Any:
    model = tiny_model(name, **settings)
    register_document_attention()
    model.set_attn_implementation(attention)
    return model.eval()


def logits_of(model: Any, tokens: Tensor, **inputs: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(tokens, use_cache=False, **inputs).logits
    return logits


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "mistral"])
def test_documents_of_a_packed_row_do_not_see_each_other(name: str) -> None:
    tokens = tokens_of(sum(DOCUMENTS))
    packed = logits_of(model_of(name, DOCUMENT_ATTENTION), tokens, position_ids=packed_positions(DOCUMENTS))
    alone = model_of(name, "eager")
    expected = torch.cat([logits_of(alone, document) for document in tokens.split(DOCUMENTS, dim=1)], dim=1)
    assert float((packed - expected).abs().max()) <= LOGITS
    whole = logits_of(model_of(name, DOCUMENT_ATTENTION), tokens)
    assert float((packed - whole).abs().max()) > 0.01  # the test can tell


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_skipped_positions_begin_no_document(name: str) -> None:
    tokens, positions = tokens_of(40), torch.cat([torch.arange(17), torch.arange(100, 123)])[None]
    mask = torch.full((40, 40), torch.finfo(torch.float32).min).triu(1)[None, None]
    expected = logits_of(model_of(name, "eager"), tokens, position_ids=positions, attention_mask=mask)
    found = logits_of(model_of(name, DOCUMENT_ATTENTION), tokens, position_ids=positions)
    assert float((found - expected).abs().max()) <= LOGITS


@pytest.mark.compat
def test_transformers_still_reads_skipped_positions_as_a_new_document() -> None:
    tokens, positions = tokens_of(40), torch.cat([torch.arange(17), torch.arange(100, 123)])[None]
    model = model_of("llama", "sdpa")
    cut = logits_of(model, tokens, position_ids=positions)
    second_half = logits_of(model, tokens[:, 17:], position_ids=positions[:, 17:])
    assert float((cut[:, 17:] - second_half).abs().max()) <= LOGITS


@pytest.mark.compat
def test_transformers_still_lets_documents_see_each_other_under_a_mask_of_ones() -> None:
    tokens, positions = tokens_of(40), packed_positions((17, 23))
    model = model_of("llama", "sdpa")
    apart = logits_of(model, tokens, position_ids=positions)
    leaking = logits_of(model, tokens, position_ids=positions, attention_mask=torch.ones_like(tokens))
    assert float((apart - leaking).abs().max()) > 0.01


@pytest.mark.compat
def test_transformers_still_builds_a_mask_for_packed_rows_and_none_for_an_attention_of_ours() -> None:
    from transformers.masking_utils import create_causal_mask

    row: dict[str, Any] = {"attention_mask": None, "past_key_values": None, "position_ids": packed_positions((17, 23))}
    states = torch.zeros(1, 40, 128)
    theirs = create_causal_mask(config=model_of("llama", "sdpa").config, inputs_embeds=states, **row)
    ours = create_causal_mask(config=model_of("llama", DOCUMENT_ATTENTION).config, inputs_embeds=states, **row)
    assert theirs is not None
    assert theirs.shape[-2:] == (40, 40)
    assert ours is None


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_gradients_of_a_packed_row_are_the_sum_of_its_documents(name: str) -> None:
    tokens = tokens_of(sum(DOCUMENTS))
    packed = model_of(name, DOCUMENT_ATTENTION).train()
    packed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    packed(tokens, position_ids=packed_positions(DOCUMENTS), use_cache=False).logits.square().mean().backward()
    alone = model_of(name, "eager").train()
    rows = [alone(document, use_cache=False).logits for document in tokens.split(DOCUMENTS, dim=1)]
    torch.cat(rows, dim=1).square().mean().backward()
    expected = gradients_of(alone)
    for key, gradient in gradients_of(packed).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=TOLERANCE[torch.float32])


def test_nothing_of_a_row_squared_is_in_memory() -> None:
    length = 4096
    query = torch.randn(1, 4, length, 8, requires_grad=True)
    key, value = torch.randn(2, 1, 2, length, 8).requires_grad_().unbind()
    for lengths in [(length,), (1000, length - 1000)]:
        with LargestTensor() as largest:
            positions = packed_positions(lengths)
            attended, _ = document_attention(nn.Identity(), query, key, value, None, position_ids=positions)
            attended.sum().backward()
        assert largest.elements <= 2 * query.numel()


def test_keys_that_cannot_be_shared_are_repeated() -> None:
    """A head of 264 has no kernel that shares keys."""
    query, (key, value) = torch.randn(1, 4, 9, 264), torch.randn(2, 1, 2, 9, 264).unbind()
    found, _ = document_attention(nn.Identity(), query, key, value, None, position_ids=packed_positions((9,)))
    key, value = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_a_batch_of_whole_rows_is_attended_to_row_by_row() -> None:
    tokens = torch.cat([tokens_of(20, seed=1), tokens_of(20, seed=2)])
    found = logits_of(model_of("llama", DOCUMENT_ATTENTION), tokens)
    assert float((found - logits_of(model_of("llama", "eager"), tokens)).abs().max()) <= LOGITS


def test_a_row_begins_at_the_start_of_a_document() -> None:
    assert document_lengths(packed_positions(DOCUMENTS)) == list(DOCUMENTS)
    assert document_lengths(torch.tensor([[0, 1, 7, 8]])) == [4]
    with pytest.raises(AssertionError, match="begins with the first token"):
        document_lengths(torch.tensor([[3, 4, 0, 1]]))
    with pytest.raises(AssertionError, match="at the same tokens"):
        document_lengths(torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]]))


def test_several_documents_share_a_row_only_in_a_batch_of_one() -> None:
    states = torch.zeros(2, 1, 4, 8)
    with pytest.raises(AssertionError, match="batch of one"):
        document_attention(nn.Identity(), states, states, states, None, position_ids=torch.tensor([[0, 1, 0, 1]]))


def test_a_document_longer_than_the_sliding_window_is_refused() -> None:
    model = model_of("mistral", DOCUMENT_ATTENTION)
    logits_of(model, tokens_of(100), position_ids=packed_positions((64, 36)))
    with pytest.raises(TrainingError, match="window of 64 tokens, found one of 65: install flash-attn"):
        logits_of(model, tokens_of(100), position_ids=packed_positions((65, 35)))


def test_attention_of_another_kind_is_refused() -> None:
    states = torch.zeros(1, 1, 4, 8)
    with pytest.raises(TrainingError, match="found softcap in Identity"):
        document_attention(
            nn.Identity(), states, states, states, None, position_ids=packed_positions((4,)), softcap=30.0
        )
