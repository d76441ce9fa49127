"""Token-weighted perplexity of a causal language model on one long document, as one prefill.

In: a transformers model and token ids. Out: the loss of every token, from which any mean can be taken. The lm head
runs in chunks, so that memory does not grow with length times vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

_CHUNK = 1024

LAST = 1024
"""Tokens at the end of a document whose loss shows best what a length costs."""
BUCKET = 512
"""Tokens of one point of the curve of loss by position."""


def token_losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy in nats of ``tokens`` [T] from the second on, shape [T - 1], float32 on the CPU.

    ``model`` is a transformers causal language model; it runs once over the whole document without a cache.
    """
    base_model: Any = model.base_model
    lm_head: Any = model.lm_head
    with torch.inference_mode():
        hidden = base_model(tokens[None], use_cache=False).last_hidden_state[0, :-1]  # [T - 1, hidden]
        losses = [
            nn.functional.cross_entropy(
                lm_head(hidden[first : first + _CHUNK]).float(),
                tokens[first + 1 : first + 1 + _CHUNK],
                reduction="none",
            )
            for first in range(0, len(hidden), _CHUNK)
        ]
    return torch.cat(losses).cpu()


def mean_loss(losses: Tensor) -> float:
    """Mean in nats, summed in float64."""
    return losses.double().mean().item()


def perplexity(losses: Tensor) -> float:
    """``exp`` of the mean loss."""
    return math.exp(mean_loss(losses))


def loss_by_position(losses: Tensor, *, bucket: int = BUCKET) -> tuple[float, ...]:
    """Mean loss of every run of ``bucket`` tokens along the document; the last run may be shorter."""
    return tuple(mean_loss(run) for run in torch.split(losses, bucket))
