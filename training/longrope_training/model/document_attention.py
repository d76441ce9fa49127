"""Attention for rows of packed documents, without a mask.

A document begins where the position is 0, and each attends causally to itself by one call of SDPA, so that nothing of
T times T is in memory. transformers begins a document at every step of positions other than 1 instead, and masks the
second half of a row with skipped positions (PoSE, arXiv 2309.10400) from the first; and its mask takes T times T.

It is registered as an attention and not as a mask, for which transformers builds none.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from longrope_vllm.errors import TrainingError
from longrope_vllm.extras import require

DOCUMENT_ATTENTION = "longrope_documents"
"""Its name as ``attn_implementation``."""

_CHANGES = ("softcap", "s_aux", "position_bias")
"""Arguments of models whose attention is more than a softmax of scaled products."""


def register_document_attention() -> str:
    """Make it known to transformers under ``DOCUMENT_ATTENTION``, which is returned; again changes nothing."""
    require("transformers.modeling_utils", "train").AttentionInterface.register(DOCUMENT_ATTENTION, document_attention)
    return DOCUMENT_ATTENTION


def document_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_ids: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within documents; called by transformers' attention modules.

    ``query`` [B, heads, T, head size], ``key`` and ``value`` with as many heads or a divisor of them, ``position_ids``
    [B or 1, T] int64. Several documents share a row only where B is 1. Returns [B, T, heads, head size] and no weights.
    Raises ``TrainingError`` for a document longer than the layer's sliding window, and for attention of another kind.
    """
    found = [name for name in _CHANGES if others.get(name) is not None]
    if found:
        raise TrainingError(
            f"Expected plain softmax attention, found {', '.join(found)} in {type(module).__name__}: train this model "
            "with --attention flash."
        )
    assert attention_mask is None, "documents are told apart by positions, not by a mask"
    assert key.shape[2] == query.shape[2], "a row is attended to as a whole, without a cache"
    lengths = document_lengths(position_ids)
    assert sum(lengths) == query.shape[2], "every token has a position"
    assert len(lengths) == 1 or query.shape[0] == 1, "several documents share a row only in a batch of one"
    if sliding_window is not None and max(lengths) > sliding_window:
        raise TrainingError(
            f"Expected documents within the sliding window of {sliding_window} tokens, found one of {max(lengths)}: "
            "install flash-attn and train with --attention flash."
        )
    if not _keys_can_be_shared(query, key, value):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    shared = query.shape[1] != key.shape[1]
    attended = [
        nn.functional.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shared
        )
        for queries, keys, values in zip(
            *(torch.split(states, lengths, dim=2) for states in (query, key, value)), strict=True
        )
    ]
    whole = attended[0] if len(attended) == 1 else torch.cat(attended, dim=2)
    return whole.transpose(1, 2).contiguous(), None


def document_lengths(position_ids: Tensor) -> list[int]:
    """Tokens of each document of a row, from its positions [B, T]; the rows of a batch must begin them alike."""
    begins = position_ids == 0
    assert bool(begins[:, 0].all()), "a row begins with the first token of a document"
    assert bool((begins == begins[:1]).all()), "the rows of a batch begin their documents at the same tokens"
    firsts: list[int] = begins[0].nonzero()[:, 0].tolist()
    return [end - begin for begin, end in pairwise([*firsts, position_ids.shape[1]])]


def _keys_can_be_shared(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether SDPA reads one key for several queries by a kernel that keeps no T times T scores."""
    if query.shape[1] == key.shape[1]:
        return True
    autocast = query.is_cuda and torch.is_autocast_enabled("cuda")  # which casts what SDPA is given
    dtype = torch.get_autocast_dtype("cuda") if autocast else query.dtype
    if query.is_cuda and dtype not in (torch.float16, torch.bfloat16):
        return False  # the kernel for float32 cannot, and SDPA would fall back to the plain formula
    return key.shape[-1] == value.shape[-1] <= 256
