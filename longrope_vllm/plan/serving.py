"""The plan of one server: the layout that answers soonest among those that fit, and all that follows from it."""

from dataclasses import dataclass, field, replace
from typing import Literal

from longrope_vllm.errors import PlanError
from longrope_vllm.factors import Factors
from longrope_vllm.plan.batch import default_chunk, default_sequences, sane_sequences
from longrope_vllm.plan.cluster import Cluster
from longrope_vllm.plan.gpu_memory import UTILIZATION, Batch, GpuMemory
from longrope_vllm.plan.host_memory import HostMemory
from longrope_vllm.plan.kv_cache import KVDType
from longrope_vllm.plan.layout import Layout, layouts
from longrope_vllm.plan.prefill_time import PrefillTime, Utilisation
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.plan.timeouts import TimeOuts


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked for; None: the planner decides."""

    context: int
    cluster: Cluster
    kv_dtype: KVDType = "auto"
    quantization: Literal["fp8"] | None = None
    """Of weights that are not quantized yet, by vLLM while it loads them."""
    chunk: int | None = None
    sequences: int | None = None
    utilization: float = UTILIZATION
    """Of the GPUs' memory."""
    shares: Utilisation = field(default_factory=Utilisation)
    """Of the GPUs' peak."""

    @property
    def batch(self) -> Batch:
        """Chunk and sequences, as asked for or by default. Raises ``PlanError`` for less than a token a sequence."""
        gpus = self.cluster.gpus
        sequences = self.sequences or sane_sequences(self.context, default_sequences(gpus))
        chunk = self.chunk or max(default_chunk(gpus), self.sequences or 0)
        if self.sequences is None:
            sequences = min(sequences, chunk)
        if sequences > chunk:
            raise PlanError(
                f"Expected at least as many tokens in a step as sequences, found --max-num-batched-tokens {chunk} and "
                f"--max-num-seqs {sequences}: vLLM takes no less."
            )
        return Batch(context=self.context, chunk=chunk, sequences=sequences, kv_dtype=self.kv_dtype)


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """One server of one model."""

    model: ServedModel
    wish: Wish
    factors: Factors | None
    layout: Layout
    gpu: GpuMemory
    host: HostMemory
    time: PrefillTime | None
    timeouts: TimeOuts

    @classmethod
    def of(cls, model: ServedModel, wish: Wish, factors: Factors | None = None) -> "ServingPlan":
        """The best plan; one that does not ``fits`` where none does. Raises ``PlanError`` without any layout."""
        return min((cls._with(model, wish, factors, layout) for layout in layouts(model, wish.cluster)), key=_rank)

    @classmethod
    def _with(cls, model: ServedModel, wish: Wish, factors: Factors | None, layout: Layout) -> "ServingPlan":
        lighter = wish.quantization == "fp8" and model.quantization is None
        gpu = GpuMemory.of(
            model,
            layout,
            wish.batch,
            wish.cluster.gpus.memory,
            factors=factors,
            utilization=wish.utilization,
            weight_bytes=model.fp8_weight_bytes if lighter else None,
        )
        time = PrefillTime.of(gpu, wish.cluster, wish.shares)
        return cls(
            model=model,
            wish=wish,
            factors=factors,
            layout=layout,
            gpu=gpu,
            host=HostMemory.of(model, layout, wish.batch),
            time=time,
            timeouts=TimeOuts.of(time, gpu.weights * layout.ranks_of_a_node),
        )

    @property
    def fits(self) -> bool:
        """Whether one sequence of the whole context does."""
        return self.gpu.fits

    def but(self, wish: Wish) -> "ServingPlan":
        """The plan of the same model for another wish."""
        return ServingPlan.of(self.model, wish, self.factors)

    def on(self, cluster: Cluster) -> "ServingPlan":
        """The same on other machines."""
        return self.but(replace(self.wish, cluster=cluster))


def _rank(plan: ServingPlan) -> tuple[bool, float, float, int]:
    """Fitting first, then the soonest answer, then the longest context and the widest layout."""
    if not plan.fits:
        return True, 0.0, -plan.gpu.longest, -plan.layout.tensor
    return False, 0.0 if plan.time is None else plan.time.worst, -plan.gpu.concurrent, -plan.layout.tensor
