"""The machine that a benchmark runs on: what it is called, and how servers are started there."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path


@cache
def gpus() -> tuple[str, ...]:
    """Name, memory and driver of each, as nvidia-smi lists them; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return tuple(subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines())
    except (OSError, subprocess.CalledProcessError):
        return ()


def machine_name() -> str:
    """Cores, processor, and GPUs where there are some."""
    cores = f"{len(os.sched_getaffinity(0))} cores of {cpu_name()}"
    return ", ".join([cores, *(f"GPU {gpu}" for gpu in gpus())])


def cpu_name() -> str:
    """Model name of the processor, from the kernel."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def server_options(*, together: int = 1) -> tuple[str, ...]:
    """Options of vLLM for each of the servers that are up ``together``.

    On a GPU its share of the memory. On the CPU no compilation, which takes longer there than it can save.
    """
    if not gpus():
        return ("--enforce-eager",)
    return ("--gpu-memory-utilization", f"{0.9 / together:.2f}")
