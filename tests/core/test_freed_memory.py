"""What is freed between pieces that are kept does not stay resident."""

import subprocess
import sys

import pytest

_PASS = """
import torch
from longrope_vllm.freed_memory import give_back_freed_memory

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

MB = 250_000  # elements of float32
FIRST
before, kept = resident(), []
for layer in range(12):
    freed = [torch.ones(size * MB) for size in (28, 21, 14, 28)]
    kept.append(torch.ones(21 * MB))
    del freed
print((resident() - before) / 12 / 21e6)
"""


@pytest.mark.parametrize(("first", "least", "most"), [("", 1.1, 5), ("give_back_freed_memory()", 0.9, 1.02)])
def test_only_what_is_kept_stays_resident(first: str, least: float, most: float) -> None:
    """Times what is kept; without the call, to see that there is something to cure."""
    run = subprocess.run(
        [sys.executable, "-c", _PASS.replace("FIRST", first)], capture_output=True, text=True, check=True
    )
    assert least < float(run.stdout) < most
