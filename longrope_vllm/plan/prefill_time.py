"""How long a prompt takes, from its arithmetic alone.

Counted are matrix products, a multiplication and an addition as two, for n tokens, P active parameters, L layers (those
with a window w: n w pairs of tokens in place of n²/2) and q elements of all heads:

    2 P n  +  Σ over layers  4 q · (pairs of tokens that see each other)

Pipeline stages work on different chunks of one prompt at a time; while the last chunk goes through, the other stages
wait. ``Utilisation`` is the share of the peak that is reached: an assumption, and what is sent between GPUs,
tokenizing and scheduling are taken to be within it. An answer is bound by bandwidth: for each of its tokens all weights
that it goes through and all keys and values are read once, which no server is faster than.
"""

from dataclasses import dataclass

from longrope_vllm.errors import PlanError
from longrope_vllm.plan.cluster import Cluster
from longrope_vllm.plan.gpu_memory import GpuMemory
from longrope_vllm.plan.layout import Layout
from longrope_vllm.plan.served_model import ServedModel


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """Shares of the peak between which a prefill runs."""

    low: float = 0.25
    high: float = 0.40


def parse_utilisation(text: str) -> Utilisation:
    """``0.25-0.4``, or one share. Raises ``PlanError``."""
    low, _, high = text.partition("-")
    try:
        shares = Utilisation(low=float(low), high=float(high or low))
    except ValueError:
        shares = Utilisation(low=0.0, high=0.0)
    if not 0 < shares.low <= shares.high <= 1:
        raise PlanError(f"Expected a share of the peak such as 0.4, or two such as 0.25-0.4, found {text!r}.")
    return shares


@dataclass(frozen=True, kw_only=True)
class PrefillTime:
    """Seconds to the first token of a prompt of the longest context that has the server to itself."""

    flops: float
    best: float
    worst: float
    longest_step: float
    """Of the last chunk, which sees all others, at the worst."""
    tokens_per_second: float | None
    """Output of one sequence at the longest context; more than this no server can do. None where it is not known."""

    @classmethod
    def of(cls, memory: GpuMemory, cluster: Cluster, shares: Utilisation) -> "PrefillTime | None":
        """By the formulas on top; None for GPUs whose peak is not known."""
        if cluster.gpus.flops is None:
            return None
        model, layout, batch = memory.model, memory.layout, memory.batch
        flops = prefill_flops(model, batch.context)
        last = flops - prefill_flops(model, max(0, batch.context - batch.chunk))
        filled = flops + last * (layout.pipeline - 1)  # in the time of one stage
        of_all = cluster.gpus.flops * layout.ranks
        return cls(
            flops=flops,
            best=filled / (of_all * shares.high),
            worst=filled / (of_all * shares.low),
            longest_step=last * layout.pipeline / (of_all * shares.low),
            tokens_per_second=_tokens_per_second(memory, layout, cluster),
        )


def prefill_flops(model: ServedModel, tokens: int) -> float:
    """Operations for a prompt of ``tokens``."""
    full = tokens * tokens / 2
    windowed = full if not model.window or tokens <= model.window else tokens * model.window - model.window**2 / 2
    pairs = (model.layers - model.sliding_layers) * full + model.sliding_layers * windowed
    return 2.0 * model.active * tokens + 4.0 * model.heads * model.head * pairs


def _tokens_per_second(memory: GpuMemory, layout: Layout, cluster: Cluster) -> float | None:
    """Stages work one after the other on a token."""
    if cluster.gpus.bandwidth is None:
        return None
    model = memory.model
    read = memory.weights * (model.active + model.vocabulary * model.hidden) / model.parameters  # with the head
    return cluster.gpus.bandwidth / ((read + memory.sequence) * layout.pipeline)
