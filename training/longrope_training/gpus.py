"""GPUs by name: their memory and the arithmetic they could do, for plans made on another machine.

Figures are those of NVIDIA's data sheets (A100, A10G, L4, L40S, H100 SXM, H200, B200 in an HGX board) and of the
whitepapers of GA102 and AD102 (RTX 3090, A6000, 4090): memory in GB of 1e9 bytes, which is a little below what a driver
reports; bfloat16 products in dense matrices summed in float32, without sparsity.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from longrope_vllm.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """Equal GPUs in one machine."""

    name: str
    count: int
    memory: int
    """Bytes of each."""
    flops: float | None
    """Operations a second of each at its peak; None where the name does not tell."""

    @property
    def title(self) -> str:
        """As ``parse_gpus`` reads it."""
        return self.name if self.count == 1 else f"{self.count}x{self.name}"


KNOWN: Mapping[str, tuple[int, float]] = {
    "rtx3090-24": (24, 71e12),
    "rtx4090-24": (24, 165.2e12),
    "a10g-24": (24, 70e12),
    "l4-24": (24, 121e12),
    "a100-40": (40, 312e12),
    "a6000-48": (48, 154.8e12),
    "l40s-48": (48, 362e12),
    "a100-80": (80, 312e12),
    "h100-80": (80, 989e12),
    "h200-141": (141, 989e12),
    "b200-180": (180, 2250e12),
}
"""Name to memory in GB and peak FLOP/s."""


def parse_gpus(text: str) -> Gpus:
    """``8xh100-80``, ``h100`` where one is called so, or ``4x80`` for GB alone. Raises ``TrainingError``."""
    match = re.fullmatch(r"(?:(\d{1,5})\s*x\s*)?([a-z0-9-]+)", text.strip().lower(), re.ASCII)
    count, name = (int(match[1] or 1), match[2]) if match else (0, "")
    if count and name.isdecimal() and 0 < int(name) < 10_000:
        return Gpus(name=name, count=count, memory=int(name) * 10**9, flops=None)
    meant = [known for known in KNOWN if known == name or known.startswith(f"{name}-")]
    if count == 0 or len(meant) != 1:
        raise TrainingError(
            f"Expected GPUs such as 8xh100-80 or 4x80 (GB), found {text!r}: known are {', '.join(KNOWN)}."
        )
    memory, flops = KNOWN[meant[0]]
    return Gpus(name=meant[0], count=count, memory=memory * 10**9, flops=flops)
