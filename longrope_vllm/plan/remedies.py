"""What would fit where a plan does not."""

from collections.abc import Iterator
from dataclasses import replace

from longrope_vllm.errors import PlanError
from longrope_vllm.lengths import format_length
from longrope_vllm.plan.cluster import Cluster
from longrope_vllm.plan.serving import ServingPlan, Wish

_MOST_NODES = 16
_ROUND = 1024


def remedies(plan: ServingPlan) -> tuple[str, ...]:
    """Sentences, the cheapest first. Empty for a plan that fits."""
    if plan.fits:
        return ()
    found = []
    longest = plan.gpu.longest // _ROUND * _ROUND
    if longest:
        found.append(f"--context {format_length(longest)}: the longest that fits as it is.")
    for options, wish in _smaller(plan):
        if (other := plan.but(wish)).fits:
            found.append(f"{options}: fits, with room for {other.gpu.concurrent:.1f} sequences of this length.")
            break
    for cluster in _larger(plan.wish.cluster):
        try:
            other = plan.on(cluster)
        except PlanError:
            continue  # the heads cannot be shared out so
        if other.fits:
            found.append(f"--gpus {cluster.title}: fits.")
            break
    return tuple(found) or (f"No context fits up to {_MOST_NODES} nodes of these GPUs: take larger ones.",)


def _smaller(plan: ServingPlan) -> Iterator[tuple[str, Wish]]:
    """What takes less memory, the least loss first."""
    wish, quantized = plan.wish, plan.model.quantization is not None
    cache = replace(wish, kv_dtype="fp8")
    weights = replace(wish, quantization="fp8")
    if not wish.kv_dtype.startswith("fp8"):
        yield "--kv-cache-dtype fp8", cache
    if not quantized and wish.quantization is None:
        yield "--quantization fp8", weights
        yield "--kv-cache-dtype fp8 --quantization fp8", replace(weights, kv_dtype="fp8")


def _larger(cluster: Cluster) -> Iterator[Cluster]:
    """More of the same: up to eight GPUs in a node, then more nodes."""
    count = cluster.gpus.count
    while cluster.nodes == 1 and count < 8:
        count *= 2
        yield Cluster(nodes=1, gpus=replace(cluster.gpus, count=count))
    for nodes in range(cluster.nodes + 1, _MOST_NODES + 1):
        yield Cluster(nodes=nodes, gpus=replace(cluster.gpus, count=count))
