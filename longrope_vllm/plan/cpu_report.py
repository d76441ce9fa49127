"""The plan of a server on the CPU engine, as text and in JSON."""

import shlex
from collections.abc import Sequence
from math import ceil
from typing import Any

from longrope_vllm.factors import Factors
from longrope_vllm.lengths import format_length
from longrope_vllm.plan.cpu_memory import BLOCK, CHUNK, SEQUENCES, CpuMemory
from longrope_vllm.plan.gpu_memory import Batch
from longrope_vllm.plan.report import size_text
from longrope_vllm.plan.served_model import ServedModel

_GIB = 1 << 30
_WORDS = {
    "cache": "keys and values",
    "copies": "embedding and head a second time",
    "freed": "freed weights that glibc may keep",
    "tables": "rope tables",
    "arrays": "token arrays",
    "step": "a step",
}


def plan_for_cpu(model: ServedModel, context: int, *, space: int, factors: Factors | None = None) -> CpuMemory:
    """With vLLM's defaults and ``space`` GiB of cache; 0: as many as one sequence of ``context`` tokens takes."""
    batch = Batch(context=context, chunk=CHUNK, sequences=SEQUENCES, block=BLOCK)
    one = CpuMemory.of(model, batch, 0, factors=factors).sequence
    return CpuMemory.of(model, batch, (space or ceil(one / _GIB)) * _GIB, factors=factors)


def cpu_report(name: str, context: int, memory: CpuMemory, chosen: Sequence[str] = (), *, note: str = "") -> str:
    """Lines about ``memory`` and a ``note``; ``chosen`` are the options that name factors."""
    a_sequence = f"a sequence of {format_length(context)} tokens takes {size_text(memory.sequence)}"
    lines = [f"  {_WORDS.get(part, part):34}{size_text(taken)}" for part, taken in memory.parts.items()]
    if not memory.fits:
        said = f"does not fit: {a_sequence} of the {size_text(memory.cache)} for keys and values"
        return "\n".join(["memory of a server on the CPU", *lines, said])
    command = shlex.join(["longrope", "serve", name, *chosen, "--max-model-len", str(context)])
    return "\n".join(
        [
            f"memory of a server on the CPU: {a_sequence}",
            *lines,
            f"  {'in all':34}{size_text(memory.needed)}",
            *([f"note: {note}"] if note else []),
            "start",
            f"  VLLM_CPU_KVCACHE_SPACE={memory.cache // _GIB} {command}",
        ]
    )


def cpu_document(name: str, context: int, memory: CpuMemory) -> dict[str, Any]:
    """Bytes, as ``document`` has them for GPUs."""
    return {
        "model": {"name": name},
        "batch": {"context": context, "chunk": CHUNK, "sequences": SEQUENCES, "block": BLOCK},
        "fits": memory.fits,
        "cpu_memory": {**memory.parts, "kv_of_a_sequence": memory.sequence, "needed": memory.needed},
    }
