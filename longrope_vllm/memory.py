"""Memory that there is, and what models of the families read here take of it, for plans made before a run."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from longrope_vllm.geometry import positive_int, whole_number


def available(device: torch.device) -> int:
    """Bytes that ``device`` has left, within the limit of this process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_kilobytes(line) for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line]
    limit, used, stat = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdecimal():
        cached = [int(line.split()[1]) for line in stat.read_text().splitlines() if line.startswith("inactive_file ")]
        found.append(int(limit.read_text()) - int(used.read_text()) + sum(cached))  # files read give way to others
    return min(found)


def attention_width(config: Mapping[str, Any]) -> int:
    """Elements a token of one attention: queries and keys twice (turned), values, and what comes out."""
    hidden, heads = positive_int(config, "hidden_size"), positive_int(config, "num_attention_heads")
    head = whole_number(config, "head_dim", default=hidden // heads)
    return 2 * head * (heads + whole_number(config, "num_key_value_heads", default=heads) * 2) + heads * head


def mlp_width(config: Mapping[str, Any]) -> int:
    """Elements a token of the inside of one MLP."""
    return whole_number(config, "intermediate_size", default=4 * positive_int(config, "hidden_size"))


def mask_bytes(config: Mapping[str, Any], length: int, device: torch.device) -> int:
    """Bytes of a mask of every token against every other, which SDPA is given where layers see a window only."""
    window = config.get("sliding_window")
    masked = window is not None and config.get("use_sliding_window", True) and window < length
    flash = device.type == "cuda" and find_spec("flash_attn") is not None
    return length * length if masked and not flash else 0


def gigabytes(amount: int) -> str:
    """``amount`` bytes as a plan says it."""
    return f"{amount / 1e9:.1f} GB"


def _kilobytes(line: str) -> int:
    return int(line.split()[1]) * 1024
