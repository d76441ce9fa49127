"""How much memory a pass takes, told before it begins.

Counted: weights, one layer's activations, the hidden state that checkpointing keeps of every layer, and one chunk of
logits. On CUDA the host keeps those hidden states, and MLPs run over pieces where a gradient is taken. Attention itself
takes no memory that grows with the square of the length (flash-attn, and SDPA's kernels alike), but where layers see a
sliding window SDPA is given a mask that does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from longrope_vllm.errors import SearchError
from longrope_vllm.evaluation.perplexity import CHUNK
from longrope_vllm.geometry import positive_int, read_config, text_config
from longrope_vllm.memory import attention_width, available, gigabytes, mask_bytes, mlp_width
from longrope_vllm.weights import weight_bytes

_BACKWARD = 2.5  # a layer's activations while its derivatives are taken, over those of a forward pass


MLP_TOKENS = 8192
"""Tokens whose MLP is computed at once where a gradient is taken on CUDA."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes of one pass."""

    weights: int
    activations: int
    logits: int
    available: int
    """What the device has left before the weights are loaded."""
    length: int
    gradient: bool

    @classmethod
    def of(cls, checkpoint: Path, *, length: int, dtype: torch.dtype, device: torch.device, gradient: bool) -> Self:
        """Read from ``config.json`` and the sizes of the weights. Raises ``CheckpointError``."""
        config = text_config(read_config(checkpoint))
        hidden, layers = positive_int(config, "hidden_size"), positive_int(config, "num_hidden_layers")
        size = dtype.itemsize
        spared = gradient and device.type == "cuda"
        at_once = min(length, MLP_TOKENS) if spared else length
        layer = size * (3 * length * hidden + max(length * attention_width(config), 3 * at_once * mlp_width(config)))
        kept = length * size * hidden * ((2 if spared else layers) + 2) if gradient else 0
        logits = min(CHUNK, length) * positive_int(config, "vocab_size") * (size + 8)
        return cls(
            weights=weight_bytes(checkpoint, size),
            activations=(round(layer * _BACKWARD) + kept if gradient else layer) + mask_bytes(config, length, device),
            logits=logits * 2 if gradient else logits,
            available=available(device),
            length=length,
            gradient=gradient,
        )

    @property
    def needed(self) -> int:
        """Bytes in all."""
        return self.weights + self.activations + self.logits

    def __str__(self) -> str:
        what = "a pass forward and backward" if self.gradient else "a pass"
        return (
            f"memory: about {gigabytes(self.needed)} for {what} over {self.length:,} tokens (weights "
            f"{gigabytes(self.weights)}, activations {gigabytes(self.activations)}, logits "
            f"{gigabytes(self.logits)}), {gigabytes(self.available)} available"
        )

    def check(self) -> None:
        """Raise ``SearchError`` when it cannot fit."""
        if self.needed > self.available:
            other = "--method evolution or cma, which take less, " if self.gradient else ""
            raise SearchError(
                f"Expected {gigabytes(self.needed)} of memory for a pass over {self.length:,} tokens, found "
                f"{gigabytes(self.available)} available: use {other}a shorter target, --dtype bfloat16 or a larger "
                "device."
            )
