"""How much memory a pass takes, told before it begins.

Counted: weights, one layer's activations, the hidden state that checkpointing keeps of every layer, and one chunk of
logits. Attention itself takes none that grows with the square of the length (flash-attn, and SDPA's kernels alike), but
where layers see a sliding window SDPA is given a mask that does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch

from longrope_vllm.errors import SearchError
from longrope_vllm.evaluation.perplexity import CHUNK
from longrope_vllm.geometry import positive_int, read_config, text_config

_BACKWARD = 2.5  # a layer's activations while its derivatives are taken, over those of a forward pass


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
        layer = length * size * _layer_width(config)
        kept = length * size * hidden * (layers + 2) if gradient else 0
        logits = min(CHUNK, length) * positive_int(config, "vocab_size") * (size + 8)
        return cls(
            weights=_weights(checkpoint, size),
            activations=(round(layer * _BACKWARD) + kept if gradient else layer) + _mask(config, length, device),
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
            f"memory: about {_gigabytes(self.needed)} for {what} over {self.length:,} tokens (weights "
            f"{_gigabytes(self.weights)}, activations {_gigabytes(self.activations)}, logits "
            f"{_gigabytes(self.logits)}), {_gigabytes(self.available)} available"
        )

    def check(self) -> None:
        """Raise ``SearchError`` when it cannot fit."""
        if self.needed > self.available:
            other = "--method evolution or cma, which take less, " if self.gradient else ""
            raise SearchError(
                f"Expected {_gigabytes(self.needed)} of memory for a pass over {self.length:,} tokens, found "
                f"{_gigabytes(self.available)} available: use {other}a shorter target, --dtype bfloat16 or a larger "
                "device."
            )


def available(device: torch.device) -> int:
    """Bytes that ``device`` has left, within the limit of this process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_kilobytes(line) for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line]
    limit, used, stat = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdecimal():
        cached = [int(line.split()[1]) for line in stat.read_text().splitlines() if line.startswith("inactive_file ")]
        found.append(int(limit.read_text()) - int(used.read_text()) + sum(cached))  # files read give way to others
    return min(found)


def _layer_width(config: Mapping[str, Any]) -> int:
    """Elements a token while one layer runs: residual, queries and keys twice (turned), values, or the MLP's three."""
    hidden, heads = positive_int(config, "hidden_size"), positive_int(config, "num_attention_heads")
    head = int(config.get("head_dim") or hidden // heads)
    attention = 2 * head * (heads + int(config.get("num_key_value_heads") or heads) * 2) + heads * head
    return 3 * hidden + max(attention, 3 * int(config.get("intermediate_size") or 4 * hidden))


def _weights(checkpoint: Path, size: int) -> int:
    """Bytes of the weights in the number format they are loaded in."""
    index = checkpoint / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    files = [checkpoint / name for name in names if (checkpoint / name).is_file()]
    if not files:
        return sum(path.stat().st_size for path in checkpoint.glob("*.bin"))
    total = 0
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
        total += size * sum(int(torch.Size(shape).numel()) for shape in shapes)
    return total


def _mask(config: Mapping[str, Any], length: int, device: torch.device) -> int:
    """Bytes of a mask of every token against every other, which SDPA is given where layers see a window only."""
    window = config.get("sliding_window")
    masked = window is not None and config.get("use_sliding_window", True) and window < length
    flash = device.type == "cuda" and find_spec("flash_attn") is not None
    return length * length if masked and not flash else 0


def _kilobytes(line: str) -> int:
    return int(line.split()[1]) * 1024


def _gigabytes(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB"
