"""What a server takes of the memory of its machines.

For each process the interpreter with torch and vLLM, measured on the CPU engine with a model of a megabyte
(benchmarks/results/, ``bench_plan.py``). A worker that drives a GPU holds CUDA's libraries, the code of kernels and
pinned buffers on top: not measured, assumed generously, since too little ends it. For each worker the arrays that hold
every token of every sequence. For the API server the most that HTML and PDF may take while they are read. And shared
memory, through which processes and NCCL talk: an assumption of 1 GB, and 1 GB for each GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from longrope_vllm.plan.batch import array_bytes
from longrope_vllm.plan.gpu_memory import Batch
from longrope_vllm.plan.layout import Layout
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.server.files.settings import TEXTS_AT_ONCE, FileSettings

API_SERVER, ENGINE_CORE, WORKER = 600_000_000, 550_000_000, 600_000_000
"""Bytes of each kind of process before it holds anything; the worker is the CPU's."""

GPU_WORKER = 4_000_000_000
"""The same of a worker that drives a GPU."""

SHARED = 1_000_000_000
"""Bytes of ``/dev/shm`` for a node, and again for each of its GPUs."""


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Bytes of the busiest node: the first one, with the API server."""

    processes: int
    arrays: int
    """Of one worker."""
    workers: int
    """On this node."""
    documents: int
    """The most that the processes may take which make text of uploads."""
    shared: int

    @classmethod
    def of(cls, model: ServedModel, layout: Layout, batch: Batch) -> "HostMemory":
        """Of a server with one API server process."""
        workers = layout.ranks_of_a_node
        return cls(
            processes=API_SERVER + ENGINE_CORE + workers * GPU_WORKER,
            arrays=array_bytes(batch.context, batch.sequences),
            workers=workers,
            documents=TEXTS_AT_ONCE * FileSettings.text_memory,
            shared=SHARED * (1 + workers),
        )

    @property
    def parts(self) -> Mapping[str, int]:
        """Bytes by what takes them."""
        return {
            "processes": self.processes,
            "arrays": self.arrays * self.workers,
            "documents": self.documents,
            "shared": self.shared,
        }

    @property
    def needed(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())
