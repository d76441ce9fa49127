"""A plan in JSON: the structure that ``--json`` prints and docs/plan.md describes. Fields are added, never renamed."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from longrope_vllm.plan.context_parallel import context_parallel_notes, most_decode_ways
from longrope_vllm.plan.kv_cache import token_bytes
from longrope_vllm.plan.launch import environment, launch_lines, launch_options
from longrope_vllm.plan.remedies import remedies
from longrope_vllm.plan.serving import ServingPlan
from longrope_vllm.plan.timeouts import body_size


def document(model: str, plan: ServingPlan, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """Bytes, seconds and tokens throughout; null is what is not known."""
    gpu, layout, batch, wish = plan.gpu, plan.layout, plan.gpu.batch, plan.wish
    prefill, decode = context_parallel_notes(plan.model, layout)
    return {
        "model": {
            "name": model,
            "parameters": plan.model.parameters,
            "weight_bytes": gpu.model.weight_bytes,
            "weights_counted": plan.model.counted,
            "dtype": plan.model.dtype,
            "quantization": wish.quantization or plan.model.quantization,
            "kv_bytes_per_token": token_bytes(plan.model, batch.kv_dtype),
            "reach": plan.model.reach if plan.factors is None else plan.factors.max_length,
        },
        "gpus": {
            "name": wish.cluster.gpus.name,
            "nodes": wish.cluster.nodes,
            "per_node": wish.cluster.gpus.count,
            "memory_bytes": gpu.memory,
            "memory_utilization": gpu.utilization,
        },
        "layout": {"tensor_parallel": layout.tensor, "pipeline_parallel": layout.pipeline, "nodes": layout.nodes},
        "batch": asdict(batch),
        "fits": plan.fits,
        "gpu_memory": {
            **gpu.parts,
            "rope_tables_by_tier": {str(length): taken for length, taken in gpu.tables.items()},
            "kv_pool": gpu.pool,
            "kv_of_a_sequence": gpu.sequence,
            "sequences_of_the_context": gpu.concurrent,
            "longest_context": gpu.longest,
        },
        "host_memory": {**plan.host.parts, "array_of_a_worker": plan.host.arrays, "needed": plan.host.needed},
        "time": None if plan.time is None else {**asdict(plan.time), "utilisation": asdict(wish.shares)},
        "context_parallel": {
            "prefill": prefill,
            "decode": decode,
            "decode_ways": most_decode_ways(plan.model, layout),
        },
        "timeouts": asdict(plan.timeouts) | {"body_size": body_size()},
        "launch": {
            "options": list(launch_options(plan, chosen)),
            "commands": list(launch_lines(model, plan, chosen)),
            "environment": environment(plan),
        },
        "remedies": list(remedies(plan)),
    }
