"""How much memory a step of training takes in each process, told before it begins.

In: sizes of the model and how the run is laid out. Out: bytes, part by part. With P parameters (trained: all, or
adapters, norms and the embedding), N processes, T tokens of a row over ``ways`` processes, L layers, hidden size h, MLP
width I, a bytes an element of the arithmetic (2 or 4), and r bytes an element of the residual (4 in one process, where
autocast leaves it in the float32 of the embedding; a where DeepSpeed or FSDP cast the model):

- weights: 4 a trained one and 2 (a without autocast) a frozen one, over N for sp and cp (ZeRO-3, FSDP2), and the
  copies for the arithmetic: 2 a trained one, over N for sp. Beside norms and embedding that are trained with adapters
  peft keeps, frozen, what they began with;
- gradients 4 and Adam 8 a trained one, over N for sp and cp; where several processes have rows of their own, gradients
  twice: DistributedDataParallel sends them from buckets;
- gathered (sp, cp): the weights of two layers and the largest matrix, whole, in the arithmetic's format;
- kept: with checkpointing T h r for each layer, on the host with offload but for two layers; without it
  1.2 T (3 h r + w a) + 4 T I a for each, where w is the width of an attention;
- layer: what the layer in work takes: 1.2 T (3 h r + w a) + 6 M I a, where M is the tokens of one MLP; 2 M I a where
  everything is kept anyway;
- head: logits of one chunk, their float32 forms and derivatives, 2 C V (a + 8), and 2 T h r of the last hidden state;
- exchange: what Ulysses sends and gets of queries, keys, values and results, 4 T a d (q + max(kv, ways)) for q and kv
  heads of d elements; or what a ring does of keys and values, 8 T a d kv.

1.2, 4 and 6 were measured (``tests/peak_training.py``); attention itself needs nothing that grows with the
square of T. To the sum come 10 % for fragments and, on a GPU, 1.5 GB for CUDA and NCCL: both are assumptions.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch

from longrope_training.fit import Fit
from longrope_training.model_shape import ModelShape
from longrope_training.recipe import Parallel, Recipe, Tuning
from longrope_vllm.errors import TrainingError
from longrope_vllm.evaluation.perplexity import CHUNK
from longrope_vllm.memory import available, gigabytes

ADAPTERS_FROM = 6_500_000_000
"""Parameters from which on ``auto`` tunes adapters: what is called a 7B model has 6.7 to 7.6 billion."""

FRAGMENTS = 1.1
CONTEXT = 1_500_000_000

_ATTENTION = 1.2  # what attention and norms keep, over the widths counted
_MLP_KEPT, _MLP_PEAK = 4, 6  # of its width: gate, up, its activation and their product; with derivatives


def resolved_tuning(tuning: Tuning, parameters: int) -> Literal["full", "lora"]:
    """What ``auto`` stands for."""
    if tuning == "auto":
        return "lora" if parameters >= ADAPTERS_FROM else "full"
    return tuning


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a step is laid out over processes and memory."""

    length: int
    """Tokens of a row."""
    tuning: Literal["full", "lora"]
    lora_rank: int = 8
    parallel: Parallel = "single"
    processes: int = 1
    ways: int = 1
    """Processes that share one row."""
    checkpointing: bool = True
    offload: bool = False
    mlp_tokens: int | None = None
    size: int = 2
    """Bytes an element of the arithmetic."""
    cuda: bool = True

    @property
    def tokens(self) -> int:
        """Of a row in one process."""
        return -(-self.length // self.ways)

    @property
    def shards(self) -> int:
        """Processes over which weights, gradients and the optimizer's state are spread."""
        return 1 if self.parallel == "single" else self.processes


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes of one process."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    kept: int
    layer: int
    head: int
    exchange: int
    host: int
    """In the memory of the host, beside ``needed``, for each process."""
    layout: Layout
    available: int | None = None
    """What the device has left before the weights are loaded; None for another machine's."""
    host_available: int | None = None
    """What the host has left for each process on it; None for another machine's."""

    @classmethod
    def of(
        cls,
        shape: ModelShape,
        layout: Layout,
        *,
        available: int | None = None,
        host_available: int | None = None,
    ) -> Self:
        """Of a model of this ``shape``, by the formulas on top."""
        size, tokens, shards = layout.size, layout.tokens, layout.shards
        autocast = layout.size < 4
        residual = 4 if layout.parallel == "single" else size
        adapters = shape.adapters(layout.lora_rank) + shape.norms + shape.embedding
        trained, frozen = (shape.parameters, 0) if layout.tuning == "full" else (adapters, shape.parameters)
        buckets = 4 * trained if layout.parallel == "single" and layout.processes > 1 else 0
        copies = size * trained if autocast and layout.parallel != "cp" else 0
        attention = round(_ATTENTION * tokens * (3 * shape.hidden * residual + shape.attention * size))
        inner = shape.inner * size
        at_once = min(layout.mlp_tokens or tokens, tokens)
        tiled = at_once < tokens  # a tile is computed again on the way back
        hidden = tokens * shape.hidden * residual
        if layout.checkpointing:
            kept, layer = hidden * shape.layers, attention + _MLP_PEAK * at_once * inner
        else:
            of_mlp = 0 if tiled else _MLP_KEPT * tokens * inner
            kept = shape.layers * (attention + of_mlp)
            layer = (_MLP_PEAK if tiled else _MLP_PEAK - _MLP_KEPT) * at_once * inner
        offloaded = max(0, kept - 2 * hidden) if layout.offload else 0
        return cls(
            weights=(4 * trained + size * frozen + copies) // shards,
            gradients=4 * trained // shards + buckets,
            optimizer=8 * trained // shards,
            gathered=0 if layout.parallel == "single" else size * (2 * shape.layer + shape.embedding),
            kept=kept - offloaded,
            layer=layer,
            head=2 * min(CHUNK, tokens) * shape.vocabulary * (size + 8) + 2 * hidden,
            exchange=_EXCHANGED[layout.parallel](shape, layout),
            host=offloaded,
            layout=layout,
            available=available,
            host_available=host_available,
        )

    @property
    def parts(self) -> Mapping[str, int]:
        """Bytes by what takes them, without the assumptions."""
        names = ("weights", "gradients", "optimizer", "gathered", "kept", "layer", "head", "exchange")
        return {name: getattr(self, name) for name in names}

    @property
    def needed(self) -> int:
        """Bytes in all, with the assumptions."""
        return round(FRAGMENTS * sum(self.parts.values())) + (CONTEXT if self.layout.cuda else 0)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {gigabytes(amount)}" for name, amount in self.parts.items() if amount)
        left = "" if self.available is None else f"; {gigabytes(self.available)} available"
        host = f", and {gigabytes(self.host)} of the host's" if self.host else ""
        return (
            f"memory: about {gigabytes(self.needed)} a process for rows of {self.layout.length:,} tokens "
            f"({parts}){host}{left}"
        )

    def check(self) -> None:
        """Raise ``TrainingError`` when it cannot fit."""
        if self.available is not None and self.needed > self.available:
            raise TrainingError(
                f"Expected {gigabytes(self.needed)} of memory in each process for rows of {self.layout.length:,} "
                f"tokens, found {gigabytes(self.available)} available: use {_instead(self.layout)}shorter stages or a "
                "larger device."
            )
        if self.host_available is not None and self.host > self.host_available:
            raise TrainingError(
                f"Expected {gigabytes(self.host)} of the host's memory for each process with --offload, found "
                f"{gigabytes(self.host_available)} available: use more ways, shorter stages, or a larger host."
            )


def plan_of(recipe: Recipe, fit: Fit) -> TrainingMemory:
    """Of the longest rows of ``recipe``, on the device that it asks for. Raises ``CheckpointError``."""
    shape = ModelShape.of(recipe.model)
    processes = fit.processes or (None if recipe.alone else recipe.ways) or 1
    length = max(one.row for one in fit.stages)
    layout = Layout(
        length=length,
        tuning=resolved_tuning(recipe.tuning, shape.parameters),
        lora_rank=recipe.lora_rank,
        parallel="single" if recipe.parallel == "auto" else recipe.parallel,
        processes=processes,
        ways=1 if recipe.alone else recipe.ways or processes,
        checkpointing=recipe.checkpointing,
        offload=recipe.offload,
        mlp_tokens=recipe.mlp_tokens,
        size=2 if recipe.dtype == "bfloat16" else 4,
        cuda=fit.device.type == "cuda",
    )
    left = available(fit.device)
    return TrainingMemory.of(
        shape,
        layout,
        available=left if layout.cuda else left // processes,  # processes on a CPU share its memory
        host_available=_of_host(processes) if recipe.offload else None,
    )


def _of_host(processes: int) -> int:
    """Bytes of the host's memory for each of the processes on it."""
    return available(torch.device("cpu")) // int(os.environ.get("LOCAL_WORLD_SIZE", processes))


def _instead(layout: Layout) -> str:
    """The options that would take less, those that cost least first."""
    options = (
        ("--checkpointing", not layout.checkpointing),
        ("--mlp-tokens 8k", layout.mlp_tokens is None and layout.tokens > 8192),
        ("--offload", layout.cuda and layout.checkpointing and not layout.offload),
        ("--tuning lora", layout.tuning == "full"),
        ("--parallel sp over several GPUs", layout.cuda and layout.parallel == "single"),
    )
    return "".join(f"{option}, " for option, useful in options if useful)


def _none(shape: ModelShape, layout: Layout) -> int:
    return 0


def _ulysses(shape: ModelShape, layout: Layout) -> int:
    heads = shape.heads + max(shape.kv_heads, layout.ways)
    return 4 * layout.tokens * layout.size * shape.head * heads


def _ring(shape: ModelShape, layout: Layout) -> int:
    return 8 * layout.tokens * layout.size * shape.head * shape.kv_heads


_EXCHANGED = {"single": _none, "sp": _ulysses, "cp": _ring}
