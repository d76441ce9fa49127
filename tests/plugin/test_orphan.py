"""A process that ends with its parent, however that ends, and takes its own children along."""

import signal
import subprocess
import sys

import pytest

pytest.importorskip("psutil", reason="comes with vLLM")

import psutil

from left_processes import left

CHILD = """
import os, subprocess
from longrope_vllm.plugin.orphan import end_with
worker = subprocess.Popen(["sleep", "600"])
print(os.getpid(), worker.pid, flush=True)
end_with(os.getppid())
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_when_its_parent_is_killed_a_process_ends_with_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(processes) == 2
        assert left(processes, within=0.5) == processes
        parent.kill()
        assert left(processes) == []
        assert parent.wait() == -signal.SIGKILL
