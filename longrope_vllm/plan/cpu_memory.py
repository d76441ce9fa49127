"""What a server on vLLM's CPU engine takes of a machine, all of its processes together.

It differs from a GPU's: the cache has a fixed size, embedding and head exist a second time in the form that matrix
products want (``dispatch_cpu_unquantized_gemm`` keeps the original there, and nowhere else), and everything lies in one
memory with the processes. Of the other matrices the originals are freed, but glibc keeps pieces below 32 MB in its
heap, of which at most all stay; tcmalloc, or ``MALLOC_MMAP_THRESHOLD_=65536``, gives them back.

Figures of the processes were measured with a model of a megabyte, those of the tokenizer by loading one alone
(benchmarks/results/, ``bench_plan.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from longrope_vllm.factors import Factors
from longrope_vllm.plan.batch import array_bytes
from longrope_vllm.plan.gpu_memory import Batch, logits_of, step_of
from longrope_vllm.plan.host_memory import API_SERVER, ENGINE_CORE, WORKER
from longrope_vllm.plan.kv_cache import sequence_bytes
from longrope_vllm.plan.layout import Layout
from longrope_vllm.plan.rope_tables import step_bytes, tier_bytes
from longrope_vllm.plan.served_model import ServedModel

BLOCK = 128
"""Tokens of a block of the CPU engine."""
CHUNK, SEQUENCES = 2048, 128
"""vLLM's defaults for a server on the CPU."""
TOKENIZER = 1150
"""Bytes of a tokenizer for each entry of its vocabulary."""

_TOKENIZERS = 3  # two in the API server, one in the engine core
_HEAP_LIMIT = 32 << 20  # DEFAULT_MMAP_THRESHOLD_MAX of <malloc.c>
_ONE = Layout(tensor=1, pipeline=1)


@dataclass(frozen=True, kw_only=True)
class CpuMemory:
    """Bytes. ``sequence``: keys and values of the longest context, which ``cache`` has to hold."""

    cache: int
    sequence: int
    weights: int
    copies: int
    """Of embedding and head."""
    freed: int
    """Weights that were put into another form, as far as the allocator may keep them."""
    tables: int
    arrays: int
    step: int
    logits: int
    """Of ``max_num_seqs`` sequences that answer at once."""
    tokenizers: int
    processes: int

    @classmethod
    def of(cls, model: ServedModel, batch: Batch, cache: int, *, factors: Factors | None = None) -> "CpuMemory":
        """Of a server with ``cache`` bytes for keys and values (``VLLM_CPU_KVCACHE_SPACE``)."""
        tables = tier_bytes(model, factors, batch.context)
        blocks = 2 * 4 * batch.sequences * -(-batch.context // batch.block)
        return cls(
            cache=cache,
            sequence=sequence_bytes(
                model, _ONE, batch.context, chunk=batch.chunk, dtype=batch.kv_dtype, block=batch.block
            ),
            weights=model.weight_bytes,
            copies=model.embeddings * model.size,
            freed=_freed(model),
            tables=sum(tables.values()) + step_bytes(model, batch.chunk, tiers=len(tables)),
            arrays=array_bytes(batch.context, batch.sequences) + blocks,
            step=step_of(model, _ONE, batch.chunk),
            logits=logits_of(model, min(batch.sequences, batch.chunk)),
            tokenizers=_TOKENIZERS * TOKENIZER * model.vocabulary,
            processes=API_SERVER + ENGINE_CORE + WORKER,
        )

    @property
    def parts(self) -> Mapping[str, int]:
        """Bytes by what takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "sequence"}

    @property
    def worker(self) -> int:
        """Bytes of the worker process."""
        return sum(self.parts.values()) - self.processes - self.tokenizers + WORKER

    @property
    def needed(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether one sequence does."""
        return self.sequence <= self.cache


def _freed(model: ServedModel) -> int:
    """Bytes of the matrices of all layers that are smaller than what glibc maps apart."""
    heads = model.head * model.heads
    matrices = (
        model.hidden * (heads + 2 * model.head * model.kv_heads),
        heads * model.hidden,
        2 * model.hidden * model.inner,
        model.inner * model.hidden,
    )
    kept = sum(size for size in (elements * model.size for elements in matrices) if size < _HEAP_LIMIT)
    return min(model.layers * kept, model.active * model.size)
