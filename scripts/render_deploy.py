"""Make what stands in deploy/ and docs/deploy.md by computation: plans, manifests, sizing tables.

    python scripts/render_deploy.py [--check]        (`make manifests`; needs helm: `make tools`)

Written are the planner's part of the chart's values.yaml, each overlay's plan.yaml and rendered.yaml (the chart with
both of the overlay's values files), what of compose and systemd is planned, and the tables between the marks in
docs/deploy.md. ``--check`` writes nothing and exits with 1 if one of them is not what it would be now.
"""

import argparse
import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from deploy_tools import TOOLS

from longrope_vllm.plan import command

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "chart"
OVERLAYS = ROOT / "deploy" / "overlays"
GUIDE = ROOT / "docs" / "deploy.md"
PLACEHOLDER = "sha256:" + 64 * "0"
MARK = "# ---- from here on: longrope plan ----\n"

NAMES = {
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3.1-70b": "meta-llama/Llama-3.1-70B-Instruct",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-32b": "Qwen/Qwen3-32B",
}
"""Folder under deploy/models to the model's name on the hub."""

EXAMPLE = ("llama-3.1-8b", "--context", "1M", "--gpus", "8xH100-80", "--tiers", "1M:yarn")
PLANS = {
    "single-gpu": ("llama-3.1-8b", "--context", "256k", "--gpus", "1xH100-80", "--tiers", "256k:yarn"),
    "multi-node": ("llama-3.1-70b", "--context", "2M", "--gpus", "2x8xH100-80", "--tiers", "2M:yarn"),
    "air-gapped": EXAMPLE,
}
"""Overlay to what is planned for it."""

SIZED = ("1xL40S-48", "1xH100-80", "2xH100-80", "8xH100-80", "8xH200-141", "2x8xH100-80")
LENGTHS = ("128k", "512k", "1M", "2M")


def main() -> int:
    """Write or check everything; exit status."""
    parser = argparse.ArgumentParser(description="Make the computed parts of deploy/ and docs/deploy.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is out of date")
    check = parser.parse_args().check
    # The manifests read the plans, so these come first.
    stale = settle({**values_and_plans(), GUIDE: sized_guide()}, check=check)
    stale += settle({OVERLAYS / name / "rendered.yaml": rendered(name) for name in overlays()}, check=check)
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


def overlays() -> list[str]:
    """Names of the overlays that are made of the chart."""
    return sorted(path.parent.name for path in OVERLAYS.glob("*/values.yaml"))


def values_and_plans() -> dict[Path, str]:
    """The chart's values and each overlay's plan."""
    head = (CHART / "values.yaml").read_text().partition(MARK)[0]
    return {
        CHART / "values.yaml": head + MARK + planned(*EXAMPLE),
        ROOT / "deploy" / "compose" / ".env.example": compose_environment(),
        ROOT / "deploy" / "systemd" / "longrope.service.d" / "plan.conf": unit_settings(),
        **{OVERLAYS / name / "plan.yaml": planned(*arguments) for name, arguments in PLANS.items()},
    }


def planned(model: str, *options: str) -> str:
    """Helm values for a model of deploy/models, under its name on the hub."""
    return plan(model, *options, "--helm-values").replace(f"deploy/models/{model}", NAMES[model])


def plan(model: str, *options: str) -> str:
    """What ``longrope plan`` prints of a model of deploy/models; it may say that the model does not fit."""
    printed = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(printed):
        command.run("longrope plan", [f"deploy/models/{model}", *options])
    return printed.getvalue()


def compose_environment() -> str:
    """Variables of deploy/compose, planned for one GPU."""
    told = yaml.safe_load(planned(*PLANS["single-gpu"]))
    startup = told["probes"]["startup"]["periodSeconds"] * told["probes"]["startup"]["failureThreshold"]
    variables = {
        "COMPOSE_FILE": "compose.yaml:gpu.yaml",
        "LONGROPE_IMAGE": f"registry.example/longrope-vllm/serve@{PLACEHOLDER}",
        "NGINX_IMAGE": f"registry.example/nginx-unprivileged@{PLACEHOLDER}",
        "LONGROPE_MODELS": "/srv/models",
        "LONGROPE_MODEL": f"/models/{PLANS['single-gpu'][0]}",
        "LONGROPE_ARGS": f'"{shlex.join(told["args"])}"',
        "LONGROPE_GPUS": told["resources"]["gpus"],
        "LONGROPE_MEMORY": told["resources"]["memory"].removesuffix("i").lower(),
        "LONGROPE_SHM": told["resources"]["shm"].removesuffix("i").lower(),
        "LONGROPE_STARTUP": f"{startup}s",
        "LONGROPE_GRACE": f"{told['gracePeriod']}s",
        **told["env"],
    }
    head = f"# longrope plan {shlex.join(PLANS['single-gpu'])} --helm-values\n"
    return head + "".join(f"{name}={value}\n" for name, value in variables.items())


def unit_settings() -> str:
    """What of deploy/systemd/longrope.service is planned, for one GPU."""
    told = yaml.safe_load(planned(*PLANS["single-gpu"]))
    environment = {
        "LONGROPE_MODEL": f"/srv/models/{PLANS['single-gpu'][0]}",
        "LONGROPE_ARGS": shlex.join(told["args"]),
        **told["env"],
    }
    lines = [
        f"# longrope plan {shlex.join(PLANS['single-gpu'])} --helm-values",
        "[Service]",
        *(f'Environment="{name}={value}"' for name, value in environment.items()),
        f"TimeoutStopSec={told['gracePeriod']}",
    ]
    return "\n".join(lines) + "\n"


def rendered(overlay: str) -> str:
    """The manifests of ``overlay``."""
    return render(
        [path for path in (OVERLAYS / overlay / name for name in ("plan.yaml", "values.yaml")) if path.exists()]
    )


def render(values: list[Path], *options: str) -> str:
    """The chart's manifests with files of ``values``."""
    template = [helm(), "template", "longrope", str(CHART), "--namespace", "longrope", "--skip-tests"]
    files = [argument for path in values for argument in ("--values", str(path))]
    done = subprocess.run([*template, *files, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"render_deploy: expected manifests, found: {done.stderr.strip()}")
    return done.stdout


def helm() -> str:
    """Where helm is."""
    found = shutil.which("helm", path=f"{TOOLS / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        sys.exit("render_deploy: expected helm, found none: make tools")
    return found


def sized_guide() -> str:
    """docs/deploy.md with its tables made anew."""
    text = GUIDE.read_text()
    start, end = "<!-- sizes -->\n", "<!-- /sizes -->\n"
    before, _, rest = text.partition(start)
    return before + start + sizes() + end + rest.partition(end)[2]


def sizes() -> str:
    """One table a model: the longest sequence of each set of GPUs, and the wait for a first token at some lengths."""
    return "\n".join(table(model) for model in NAMES)


def table(model: str) -> str:
    """Rows by GPUs, columns by length."""
    rows = [f"**{NAMES[model]}**\n", f"| GPUs | longest | {' | '.join(LENGTHS)} |", "|---|---|" + "---|" * len(LENGTHS)]
    for gpus in SIZED:
        documents = [json.loads(plan(model, "--context", length, "--gpus", gpus, "--json")) for length in LENGTHS]
        rows.append(f"| {gpus} | {longest(documents[0])} | {' | '.join(map(first_token, documents))} |")
    return "\n".join(rows) + "\n"


def longest(document: dict[str, Any]) -> str:
    """The longest sequence, in tokens; a dash where not even the weights fit."""
    tokens = document["gpu_memory"]["longest_context"]
    return "–" if tokens <= 0 else f"{tokens / 1024:,.0f}k"


def first_token(document: dict[str, Any]) -> str:
    """The wait for a first token, from the fast to the slow end of the estimate."""
    time = document["time"]
    if not document["fits"]:
        return "–"
    unit, seconds = ("min", 60) if time["worst"] >= 100 else ("s", 1)
    low, high = (f"{time[end] / seconds:.0f}" for end in ("best", "worst"))
    return f"{low} {unit}" if low == high else f"{low}–{high} {unit}"


def settle(wanted: Mapping[Path, str], *, check: bool) -> list[Path]:
    """The files that are not as ``wanted``; they are written unless ``check``."""
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if not check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
    return stale


if __name__ == "__main__":
    sys.exit(main())
