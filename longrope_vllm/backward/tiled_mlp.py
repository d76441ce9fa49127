"""The MLP of each layer over a few tokens at a time.

An MLP holds three times T times its width of elements while it runs, more than the rest of a layer. It treats each
token by itself, so it may run over pieces of a row; computing each piece again on the way back leaves one piece's
elements in memory (ALST, arXiv 2506.13996).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longrope_vllm.extras import require


def tile_mlps(model: nn.Module, tokens: int) -> bool:
    """Run the ``mlp`` of every decoder layer of ``model`` over pieces of at most ``tokens`` tokens, in place.

    Modules, their names and their hooks stay as they are. False, and nothing is changed, for layers without an ``mlp``,
    or with one of several experts: those return more than a tensor, and balance tokens over a whole row.
    """
    assert tokens > 0
    layer_type: Any = require("transformers.modeling_layers", "train").GradientCheckpointingLayer
    layers = [module for module in model.modules() if isinstance(module, layer_type)]
    mlps = [getattr(layer, "mlp", None) for layer in layers]
    if not mlps or not all(isinstance(mlp, nn.Module) and not hasattr(mlp, "experts") for mlp in mlps):
        return False
    for mlp in mlps:
        assert mlp is not None
        mlp.forward = _tiled(mlp.forward, tokens)
    return True


def _tiled(whole: Callable[[Tensor], Tensor], tokens: int) -> Callable[[Tensor], Tensor]:
    def forward(hidden: Tensor) -> Tensor:  # [batch, T, H]
        if hidden.shape[1] <= tokens:
            return whole(hidden)
        # Not reentrant: gradients of a weight are summed over the pieces before any hook sees them.
        pieces = [checkpoint(whole, piece, use_reentrant=False) for piece in torch.split(hidden, tokens, dim=1)]
        return torch.cat(pieces, dim=1)

    return forward
