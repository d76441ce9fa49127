"""GPUs by name: their memory, arithmetic and bandwidth, for plans made on another machine.

Figures are those of NVIDIA's data sheets (A100 SXM, A10G, L4, L40S, H100 SXM, H200, B200 in an HGX board) and of the
whitepapers of GA102 and AD102 (RTX 3090, A6000, 4090): memory in GB of 1e9 bytes, which is a little below what a driver
reports; bfloat16 products in dense matrices summed in float32, without sparsity; bytes a second of the memory.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from longrope_vllm.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """Equal GPUs in one machine."""

    name: str
    count: int
    memory: int
    """Bytes of each."""
    flops: float | None
    """Operations a second of each at its peak; None where the name does not tell."""
    bandwidth: float | None = None
    """Bytes a second of each one's memory; None where the name does not tell."""

    @property
    def title(self) -> str:
        """As ``parse_gpus`` reads it."""
        return self.name if self.count == 1 else f"{self.count}x{self.name}"


@dataclass(frozen=True)
class Figures:
    """What a data sheet says of one GPU."""

    gigabytes: int
    flops: float
    bandwidth: float


KNOWN: Mapping[str, Figures] = {
    "rtx3090-24": Figures(24, 71e12, 936e9),
    "rtx4090-24": Figures(24, 165.2e12, 1008e9),
    "a10g-24": Figures(24, 70e12, 600e9),
    "l4-24": Figures(24, 121e12, 300e9),
    "a100-40": Figures(40, 312e12, 1555e9),
    "a6000-48": Figures(48, 154.8e12, 768e9),
    "l40s-48": Figures(48, 362e12, 864e9),
    "a100-80": Figures(80, 312e12, 2039e9),
    "h100-80": Figures(80, 989e12, 3350e9),
    "h200-141": Figures(141, 989e12, 4800e9),
    "b200-180": Figures(180, 2250e12, 8000e9),
}
"""Name to memory in GB, peak FLOP/s and bytes a second."""


def parse_gpus(text: str) -> Gpus:
    """``8xh100-80``, ``h100`` where one is called so, or ``4x80`` for GB alone. Raises ``PlanError``."""
    match = re.fullmatch(r"(?:(\d{1,5})\s*x\s*)?([a-z0-9-]+)", text.strip().lower(), re.ASCII)
    count, name = (int(match[1] or 1), match[2]) if match else (0, "")
    if count and name.isdecimal() and 0 < int(name) < 10_000:
        return Gpus(name=name, count=count, memory=int(name) * 10**9, flops=None)
    meant = [known for known in KNOWN if known == name or known.startswith(f"{name}-")]
    if count == 0 or len(meant) != 1:
        raise PlanError(f"Expected GPUs such as 8xh100-80 or 4x80 (GB), found {text!r}: known are {', '.join(KNOWN)}.")
    figures = KNOWN[meant[0]]
    return Gpus(
        name=meant[0],
        count=count,
        memory=figures.gigabytes * 10**9,
        flops=figures.flops,
        bandwidth=figures.bandwidth,
    )
