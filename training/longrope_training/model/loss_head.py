"""An lm head that answers with the loss instead of the logits, in the memory of a chunk of tokens.

With ``s`` the softmax of a token's logits and ``y`` its target, the loss is ``logsumexp(logits) - logits[y]`` and its
derivative by the logits ``s - one_hot(y)``: both are taken while a chunk's logits are there, so that logits are
computed once and never kept. What is kept for the way back are the gradients by the hidden states [T, H] and by the
weight [V, H], which the way back multiplies by one number (Liger kernels, arXiv 2410.10989).
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from longrope_vllm.errors import TrainingError
from longrope_vllm.evaluation.perplexity import CHUNK
from longrope_vllm.extras import require

IGNORED = -100
"""Target of a token that has none, as transformers has it."""

_AFTER_THE_HEAD = (
    "final_logit_softcapping",
    "output_logit_soft_cap",
    "logit_scale",
    "logits_scaling",
    "output_multiplier",
)
"""Settings of models that change logits after the head: they would change the loss in their place."""


class LossHead(nn.Module):
    """Stands in for ``lm_head`` with the very same parameters, under the same names."""

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight  # [V, H]
        self.register_parameter("bias", linear.bias)  # [V] or None
        self.targets: Tensor | None = None
        """[1, T] int64: the token that follows each position, ``IGNORED`` where there is none; None asks for logits."""
        self.train(linear.training)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of ``hidden`` [1, T, H], shape [1, T, V]; with targets the sum of their losses, float32, shape []."""
        if self.targets is None:
            return nn.functional.linear(hidden, self.weight, self.bias)
        assert hidden.shape[:-1] == self.targets.shape, "every position has a target"
        states, targets = hidden.flatten(0, 1), self.targets.flatten().to(hidden.device)
        if hidden.is_cuda and find_spec("liger_kernel") is not None:
            return _liger_loss(states, self.weight, self.bias, targets)
        apply: Callable[..., Tensor] = _ChunkedLoss.apply
        return apply(states, self.weight, self.bias, targets, torch.is_grad_enabled())


def put_loss_head(model: Any) -> LossHead:
    """Replace the ``lm_head`` of ``model`` by a loss head, which is returned; tied weights stay tied.

    Raises ``TrainingError`` for a model whose logits are not those of one plain linear layer.
    """
    linear = getattr(model, "lm_head", None)
    if type(linear) is not nn.Linear:
        raise TrainingError(
            f"Expected a linear lm_head, found {type(linear).__name__} in {type(model).__name__}: this model cannot be "
            "trained here."
        )
    config = model.config.get_text_config()
    found = [name for name in _AFTER_THE_HEAD if getattr(config, name, None) not in (None, 1.0)]
    if found:
        raise TrainingError(
            f"Expected logits as the lm_head gives them, found {', '.join(found)} in the config of "
            f"{type(model).__name__}: this model cannot be trained here."
        )
    head = LossHead(linear)
    model.lm_head = head
    return head


class _ChunkedLoss(torch.autograd.Function):
    """Sum of the cross-entropies of ``states`` [T, H] under ``weight`` [V, H] and ``bias`` [V], with its gradients."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, taken_back: bool
    ) -> Tensor:
        """``taken_back`` says whether there will be a way back, which cannot be seen in here."""
        wanted = [taken_back and needed for needed in ctx.needs_input_grad[:3]]
        dtype = _dtype_of_products(states)
        loss = torch.zeros((), dtype=torch.float64, device=states.device)
        of_states = torch.empty_like(states) if wanted[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        # Casts are made here, once for the weight; autocast would make them at each product.
        with torch.autocast(states.device.type, enabled=False):
            matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            for first in range(0, len(states), CHUNK):
                chunk = slice(first, first + CHUNK)
                inputs = states[chunk].to(dtype)
                logits = nn.functional.linear(inputs, matrix, offset).float()  # [chunk, V]
                losses, slopes = _losses_and_slopes(logits, targets[chunk])
                loss += losses.sum()
                slopes = slopes.to(dtype)
                if of_states is not None:
                    of_states[chunk] = slopes @ matrix
                if of_weight is not None:
                    of_weight += slopes.T @ inputs
                if of_bias is not None:
                    of_bias += slopes.sum(dim=0, dtype=torch.float32)
        ctx.gradients = (
            of_states,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None or bias is None else of_bias.to(bias.dtype),
        )
        return loss.float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """``slope`` [] is that of the loss; gradients are scaled in place, for there is no memory for them twice."""
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "a loss is taken back once"
        return (*(None if gradient is None else gradient.mul_(slope) for gradient in gradients), None, None)


def _dtype_of_products(states: Tensor) -> torch.dtype:
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _losses_and_slopes(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies [C] of ``logits`` [C, V] float32, and their derivatives [C, V] written over the logits."""
    counted = targets != IGNORED
    index = targets.where(counted, 0)[:, None]  # [C, 1]
    total = logits.logsumexp(dim=-1, keepdim=True)  # [C, 1]
    losses = (total - logits.gather(-1, index))[:, 0].where(counted, 0.0)
    slopes = logits.sub_(total).exp_()
    slopes.scatter_add_(-1, index, torch.full_like(total, -1.0))
    return losses, slopes.masked_fill_(~counted[:, None], 0.0)


def _liger_loss(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The same by the kernels of Liger, where they are installed; of a version that sums in a dtype of our choice."""
    functional: Any = require("liger_kernel.transformers.functional", "train")
    loss: Tensor = functional.liger_fused_linear_cross_entropy(
        states, weight, targets, bias=bias, ignore_index=IGNORED, reduction="sum", accum_dtype=torch.float32
    )
    return loss
