"""The loss of one candidate on one passage, and its gradient: the only place where a search runs a model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Gradient
from longrope_search.model.learnable_rope import LearnableRope
from longrope_search.model.memory_plan import MLP_TOKENS
from longrope_search.model.passages import Passage
from longrope_vllm.backward.offload import offloaded
from longrope_vllm.backward.tiled_mlp import tile_mlps
from longrope_vllm.errors import SearchError
from longrope_vllm.evaluation.loading import LoadedModel
from longrope_vllm.evaluation.memory import in_memory
from longrope_vllm.evaluation.perplexity import LAST, chunk_losses, loss_by_position, token_losses
from longrope_vllm.extras import require
from longrope_vllm.factors import Factors, Origin
from longrope_vllm.geometry import Geometry
from longrope_vllm.hf import put_rotary, put_tier, take_out

BACKWARD = 3
"""Forward passes that a backward pass with activation checkpointing costs: one again, and two for the derivatives."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one pass gave."""

    loss: float
    """Mean of the tokens that count, in nats."""
    seconds: float
    gradient: Gradient | None = None
    curve: tuple[float, ...] = ()
    """Mean loss of each run of 512 tokens, for a passage of which all tokens count."""
    last: float = 0.0
    """Mean loss of its last 1,024 tokens, likewise."""


_INSTEAD = "search for a shorter target, with --method cma or evolution, in --dtype bfloat16, or on a larger device"


class Scorer:
    """A checkpoint, loaded with the first pass."""

    def __init__(
        self,
        folder: Path,
        geometry: Geometry,
        *,
        dtype: torch.dtype,
        device: torch.device,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """``geometry`` is the rope that factors are relative to; ``check`` is called once, before loading weights."""
        self._check = check
        self.model = LoadedModel(folder, dtype=dtype, device=device)
        self._geometry = geometry

    def measure(self, candidate: Candidate, passage: Passage, *, gradient: bool, curve: bool = False) -> Measured:
        """One pass over ``passage``. Raises ``SearchError`` for a loss that is no number, and out of memory."""
        self._load()  # with the first pass, which is not to take longer than the others
        started = monotonic()
        run = self._with_gradient if gradient else self._forward
        losses, slope = in_memory(lambda: run(candidate, passage), tokens=len(passage.tokens), instead=_INSTEAD)
        whole = curve and passage.counted == len(passage.tokens) - 1
        loss = losses.double().mean().item()
        slopes = torch.tensor(0.0 if slope is None else [*slope.log_factors, slope.log_attention_factor])
        if not (torch.isfinite(losses).all() and torch.isfinite(slopes).all()):
            raise SearchError(
                f"Expected a finite loss and gradient, found others (a loss of {loss}) on {passage.name}: the numbers "
                "of the model overflow, so try another --dtype."
            )
        return Measured(
            loss=loss,
            seconds=monotonic() - started,
            gradient=slope,
            curve=loss_by_position(losses) if whole else (),
            last=losses[-LAST:].double().mean().item() if whole else 0.0,
        )

    def _load(self) -> None:
        if "module" not in vars(self.model):
            self._check()
            _ = self.model.module

    def _forward(self, candidate: Candidate, passage: Passage) -> tuple[Tensor, None]:
        tier = candidate.tier(len(passage.tokens))
        factors = Factors(
            rotary_dim=self._geometry.rotary_dim,
            base=self._geometry.base,
            trained_window=self._geometry.trained_window,
            tiers=(tier,),
            origin=Origin(method="search"),
            rope_type=self._geometry.rope_type,
            rope=self._geometry.rope,
        )
        replaced = put_tier(self.model.module, factors, tier)
        try:
            tokens = passage.tokens.to(self.model.device)
            return token_losses(self.model.module, tokens, last=passage.counted), None
        finally:
            take_out(replaced)

    def _with_gradient(self, candidate: Candidate, passage: Passage) -> tuple[Tensor, Gradient]:
        rope = LearnableRope(self._geometry, candidate, self.model.device)
        model = self._checkpointed
        replaced = put_rotary(model, rope)
        try:
            tokens = passage.tokens.to(self.model.device)
            with torch.enable_grad(), offloaded(self.model.device):
                chunks = list(chunk_losses(model, tokens, last=passage.counted, run=_checkpoint))
                losses = torch.cat(chunks)
                losses.sum().backward()  # type: ignore[no-untyped-call]
        finally:
            take_out(replaced)
        return losses.detach().cpu(), rope.gradient(of_mean_over=len(losses))

    @cached_property
    def _checkpointed(self) -> Any:
        """The model with frozen weights, its layers computed again on the way back.

        Only the layers themselves are set to training, which is what turns checkpointing on; what is in them, dropout
        among it, stays in evaluation mode.
        """
        model = self.model.module
        for weight in model.parameters():
            weight.requires_grad_(False)
        newer = hasattr(model, "activation_checkpointing_enable")
        enable = model.activation_checkpointing_enable if newer else model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        if self.model.device.type == "cuda":
            tile_mlps(model, MLP_TOKENS)
        layer_type = require("transformers.modeling_layers", "search").GradientCheckpointingLayer
        for layer in model.modules():
            if isinstance(layer, layer_type):
                layer.training = True
        return model


def _checkpoint(function: Any, *arguments: Tensor) -> Tensor:
    found: Tensor = checkpoint(function, *arguments, use_reentrant=False)
    return found
