"""Token-weighted perplexity of a causal language model on one long document, as one prefill.

In: a transformers model and token ids. Out: the loss of every token, from which any mean can be taken. The lm head
runs in chunks, so that memory does not grow with length times vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 1024
"""Tokens whose logits are in memory at once."""
LAST = 1024
"""Tokens at the end of a document whose loss shows best what a length costs."""
BUCKET = 512
"""Tokens of one point of the curve of loss by position."""


def token_losses(model: nn.Module, tokens: Tensor, *, last: int | None = None) -> Tensor:
    """Cross-entropy in nats of the ``last`` tokens of ``tokens`` [T] (of all but the first), float32 on the CPU.

    ``model`` is a transformers causal language model; it runs once over the whole document without a cache, and its lm
    head only where a loss is taken.
    """
    with torch.inference_mode():
        return torch.cat(list(chunk_losses(model, tokens, last=last))).cpu()


def chunk_losses(
    model: Any, tokens: Tensor, *, last: int | None = None, run: Callable[..., Tensor] | None = None
) -> Iterator[Tensor]:
    """Losses as ``token_losses`` gives them, chunk after chunk and on the model's device.

    ``run(function, hidden, targets)`` calls the function of each chunk: activation checkpointing, for one.
    """

    def losses(hidden: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model.lm_head(hidden).float(), targets, reduction="none")

    begin = len(tokens) - 1 - (len(tokens) - 1 if last is None else last)
    hidden = model.base_model(tokens[None], use_cache=False).last_hidden_state[0, begin:-1]  # [last, hidden size]
    targets = tokens[begin + 1 :]
    for first in range(0, len(targets), CHUNK):
        chunk = slice(first, first + CHUNK)
        yield losses(hidden[chunk], targets[chunk]) if run is None else run(losses, hidden[chunk], targets[chunk])


def mean_loss(losses: Tensor) -> float:
    """Mean in nats, summed in float64."""
    return losses.double().mean().item()


def perplexity(losses: Tensor) -> float:
    """``exp`` of the mean loss."""
    return math.exp(mean_loss(losses))


def loss_by_position(losses: Tensor, *, bucket: int = BUCKET) -> tuple[float, ...]:
    """Mean loss of every run of ``bucket`` tokens along the document; the last run may be shorter."""
    return tuple(mean_loss(run) for run in torch.split(losses, bucket))
