"""The command that starts what was planned."""

import shlex
from collections.abc import Sequence

from longrope_vllm.plan.gpu_memory import UTILIZATION
from longrope_vllm.plan.serving import ServingPlan


def launch_options(plan: ServingPlan, chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """Options of ``longrope serve MODEL``, the same on every node; ``chosen`` are those that name factors."""
    wish, layout, batch = plan.wish, plan.layout, plan.gpu.batch
    options = [*chosen, "--max-model-len", str(batch.context)]
    if layout.tensor > 1:
        options += ["--tensor-parallel-size", str(layout.tensor)]
    if layout.pipeline > 1:
        options += ["--pipeline-parallel-size", str(layout.pipeline)]
    options += ["--max-num-batched-tokens", str(batch.chunk), "--max-num-seqs", str(batch.sequences)]
    if wish.kv_dtype != "auto":
        options += ["--kv-cache-dtype", wish.kv_dtype]
    if wish.quantization is not None:
        options += ["--quantization", wish.quantization]
    if wish.utilization != UTILIZATION:
        options += ["--gpu-memory-utilization", f"{wish.utilization:g}"]
    return (*options, "--shutdown-timeout", str(plan.timeouts.shutdown))


def launch_lines(model: str, plan: ServingPlan, chosen: Sequence[str] = ()) -> tuple[str, ...]:
    """One command a node, for a shell; ``HEAD`` stands for the first node's address."""
    command = ["longrope", "serve", model, *launch_options(plan, chosen)]
    if plan.layout.nodes == 1:
        return (shlex.join(command),)
    lines = []
    for rank in range(plan.layout.nodes):
        of_a_node = ["--nnodes", str(plan.layout.nodes), "--node-rank", str(rank), "--master-addr", "HEAD"]
        lines.append(shlex.join([*command, *of_a_node, *(["--headless"] if rank else [])]))
    return tuple(lines)


def environment(plan: ServingPlan) -> dict[str, str]:
    """Variables that the command needs."""
    return {
        "VLLM_ENGINE_READY_TIMEOUT_S": str(plan.timeouts.startup),
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(plan.timeouts.step),
    }
