"""What lies in the memory of one GPU, and how many sequences it leaves room for.

Per GPU of the longest pipeline stage, for weights W in t tensor-parallel ranks and p stages:

- weights: those of its layers and a t-th of embedding and head, W spread evenly over t and p but for these two;
- tables of cos and sin, one for each tier, and the rows of a step;
- step: T tokens at once need 4 T h for the residual, the norm and what comes and goes, and the wider of 3 T I / t
  (inside of an MLP) and T d (2 q + 4 k) / t (queries and keys twice, values), elements of the model's format; logits of
  S sequences, 2 S V in float32;
- blocks: which blocks a sequence has, int32, twice;
- runtime: CUDA, NCCL and CUDA graphs, ``RUNTIME``, an assumption.

What ``--gpu-memory-utilization`` leaves is the pool of blocks of keys and values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from longrope_vllm.factors import Factors
from longrope_vllm.plan import kv_cache
from longrope_vllm.plan.kv_cache import BLOCK, KVDType
from longrope_vllm.plan.layout import Layout
from longrope_vllm.plan.rope_tables import step_bytes, tier_bytes
from longrope_vllm.plan.served_model import ServedModel

RUNTIME = 2_500_000_000
UTILIZATION = 0.92
"""vLLM's default of ``--gpu-memory-utilization``."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a server takes on at once, and how it keeps it."""

    context: int
    """Tokens of the longest sequence (``--max-model-len``)."""
    chunk: int
    """Tokens of a step (``--max-num-batched-tokens``)."""
    sequences: int
    """``--max-num-seqs``."""
    kv_dtype: KVDType = "auto"
    block: int = BLOCK


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """Bytes in one GPU."""

    model: ServedModel
    layout: Layout
    batch: Batch
    memory: int
    """Of the GPU."""
    weights: int
    tables: Mapping[int, int]
    """By length of the tier."""
    rows: int
    """Of cos and sin for a step."""
    step: int
    blocks: int
    utilization: float = UTILIZATION
    runtime: int = RUNTIME

    @classmethod
    def of(
        cls,
        model: ServedModel,
        layout: Layout,
        batch: Batch,
        memory: int,
        *,
        factors: Factors | None = None,
        utilization: float = UTILIZATION,
        runtime: int = RUNTIME,
        weight_bytes: int | None = None,
    ) -> "GpuMemory":
        """By the formulas on top; ``weight_bytes`` in place of the checkpoint's."""
        tables = tier_bytes(model, factors, batch.context)
        whole = model.weight_bytes if weight_bytes is None else weight_bytes
        return cls(
            model=model,
            layout=layout,
            batch=batch,
            memory=memory,
            weights=_weights(model, layout, whole),
            tables=tables,
            rows=step_bytes(model, batch.chunk, tiers=len(tables)),
            step=step_of(model, layout, batch.chunk) + logits_of(model, min(batch.sequences, batch.chunk)),
            blocks=2 * 4 * batch.sequences * -(-batch.context // batch.block),
            utilization=utilization,
            runtime=runtime,
        )

    @property
    def parts(self) -> Mapping[str, int]:
        """Bytes by what takes them, keys and values left out."""
        return {
            "weights": self.weights,
            "tables": sum(self.tables.values()) + self.rows,
            "step": self.step,
            "blocks": self.blocks,
            "runtime": self.runtime,
        }

    @property
    def budget(self) -> int:
        """What vLLM may take."""
        return int(self.memory * self.utilization)

    @property
    def pool(self) -> int:
        """Left for keys and values; below 0 where the rest alone does not fit."""
        return self.budget - sum(self.parts.values())

    @cached_property
    def sequence(self) -> int:
        """Keys and values of one sequence of the longest context."""
        return self._sequence(self.batch.context)

    @property
    def fits(self) -> bool:
        """Whether one such sequence does."""
        return self.sequence <= self.pool

    @property
    def concurrent(self) -> float:
        """Sequences of the longest context that fit at once."""
        return max(0.0, self.pool / self.sequence)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the pool holds."""
        batch = self.batch
        return kv_cache.longest_sequence(
            self.model, self.layout, max(0, self.pool), chunk=batch.chunk, dtype=batch.kv_dtype, block=batch.block
        )

    def _sequence(self, tokens: int) -> int:
        batch = self.batch
        return kv_cache.sequence_bytes(
            self.model, self.layout, tokens, chunk=batch.chunk, dtype=batch.kv_dtype, block=batch.block
        )


def step_of(model: ServedModel, layout: Layout, chunk: int) -> int:
    """Bytes that a step of ``chunk`` tokens takes for a moment."""
    mlp = 3 * model.inner
    attention = model.head * (2 * model.heads + 4 * model.kv_heads)
    widest = max(mlp, attention) / layout.tensor
    return round(chunk * (4 * model.hidden + widest) * model.size)


def logits_of(model: ServedModel, sequences: int) -> int:
    """Bytes of the logits of ``sequences`` and of their probabilities."""
    return 2 * 4 * sequences * model.vocabulary


def _weights(model: ServedModel, layout: Layout, whole: int) -> int:
    """Of the heavier of the first and the last stage, which have embedding and head."""
    ends = model.embeddings * model.size
    at_one_end = ends if layout.pipeline == 1 else min(ends, model.vocabulary * model.hidden * model.size)
    layers = max(0, whole - ends) * layout.layers(model) / model.layers
    return round((layers + at_one_end) / layout.tensor)
