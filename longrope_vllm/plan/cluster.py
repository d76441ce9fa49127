"""The machines a server runs on, as people write them: ``8xH100-80``, ``2x8xH100-80`` for two of these."""

import re
from dataclasses import dataclass

from longrope_vllm.errors import PlanError
from longrope_vllm.gpus import Gpus, parse_gpus


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal machines with equal GPUs."""

    nodes: int
    gpus: Gpus
    """Of one node."""

    @property
    def count(self) -> int:
        """GPUs of all nodes."""
        return self.nodes * self.gpus.count

    @property
    def title(self) -> str:
        """As ``parse_cluster`` reads it."""
        return f"{self.nodes}x{self.gpus.count}x{self.gpus.name}" if self.nodes > 1 else self.gpus.title


def parse_cluster(text: str) -> Cluster:
    """``8xh100-80``, or nodes in front: ``2x8xh100-80``. Raises ``PlanError``."""
    match = re.fullmatch(r"(\d{1,4})\s*x\s*(\d{1,5}\s*x.+)", text.strip().lower(), re.ASCII)
    nodes, of_one = (int(match[1]), match[2]) if match else (1, text)
    if nodes == 0:
        raise PlanError(f"Expected at least one node, found {text!r}.")
    return Cluster(nodes=nodes, gpus=parse_gpus(of_one))
