"""How a model is shared out over GPUs: tensor parallel within a node, pipeline stages for the rest.

The rules are vLLM's: query heads divide by the tensor-parallel size; heads of keys and values do too, or are copied to
several GPUs each; a stage has at least one layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from longrope_vllm.errors import PlanError
from longrope_vllm.plan.cluster import Cluster
from longrope_vllm.plan.served_model import ServedModel


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Ranks of one server."""

    tensor: int
    pipeline: int
    nodes: int = 1

    @property
    def ranks(self) -> int:
        """Worker processes, one a GPU."""
        return self.tensor * self.pipeline

    @property
    def ranks_of_a_node(self) -> int:
        """Worker processes of one machine."""
        return ceil(self.ranks / self.nodes)

    def layers(self, model: ServedModel) -> int:
        """Layers of the longest stage."""
        return ceil(model.layers / self.pipeline)

    def kv_heads(self, model: ServedModel) -> int:
        """Heads of keys and values in one GPU."""
        return ceil(model.kv_heads / self.tensor)

    def copies(self, model: ServedModel) -> int:
        """How many GPUs hold the same head of keys and values."""
        return max(1, self.tensor // model.kv_heads)


def layouts(model: ServedModel, cluster: Cluster) -> tuple[Layout, ...]:
    """All that use every GPU of ``cluster``, the widest first. Raises ``PlanError`` when there is none."""
    found = tuple(
        Layout(tensor=tensor, pipeline=cluster.count // tensor, nodes=cluster.nodes)
        for tensor in _tensor_sizes(model, cluster.gpus.count)
        if cluster.count // tensor <= model.layers
    )
    if not found:
        raise PlanError(
            f"Expected GPUs that {model.heads} attention heads and {model.layers} layers can be shared out to, found "
            f"{cluster.title}: name fewer."
        )
    return found


def shares_heads(model: ServedModel, tensor: int) -> bool:
    """Whether vLLM takes ``tensor`` as tensor-parallel size for ``model``."""
    return model.heads % tensor == 0 and (model.kv_heads % tensor == 0 or tensor % model.kv_heads == 0)


def _tensor_sizes(model: ServedModel, gpus: int) -> Iterator[int]:
    """Sizes that divide a node's GPUs and the heads, the largest first."""
    yield from (size for size in range(gpus, 0, -1) if gpus % size == 0 and shares_heads(model, size))
