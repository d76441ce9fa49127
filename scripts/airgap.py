"""Gather what an installation without a network needs: wheels with hashes, an image as an archive, the chart.

    python3 scripts/airgap.py [--device gpu|cpu|none] [--image NAME[@sha256:DIGEST]] [--archive FILE] [--out DIR]

(`make airgap`, with DEVICE, IMAGE and ARCHIVE.) Runs on a machine with a network, of the same processor and Python as
the target if wheels are to be gathered. Output: a folder with ``wheels/``, ``requirements.txt`` (each wheel by its
SHA-256), ``image.tar`` of `docker save`, ``deploy/``, ``docs/``, ``INSTALL.md`` and ``SHA256SUMS`` over all of them.
Standard library only.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

INSTALL = """\
# longrope-vllm {version} without a network

First: `sha256sum --check SHA256SUMS` in this folder. Every line must say OK. The model comes on a volume of its own.

## On a cluster

    docker load --input image.tar                 # prints IMAGE; podman load does the same
    docker tag IMAGE REGISTRY/longrope-vllm/serve:{version}
    docker push REGISTRY/longrope-vllm/serve:{version}

`docs/deploy.md`, under Kubernetes, makes the namespace, the Secret with keys and `plan.yaml`; the planner is among the
wheels and needs no GPU. With the claim `models` of a volume that holds NAME, `yours.yaml` is:

    image: {{registry: REGISTRY}}
    model: /models/NAME
    modelVolume: {{persistentVolumeClaim: {{claimName: models, readOnly: true}}}}
    keys: {{secret: longrope-keys}}
    files: {{enabled: false}}

    helm install longrope deploy/chart --namespace longrope --values plan.yaml --values yours.yaml

`nginx.enabled=true` needs the image nginxinc/nginx-unprivileged as well, which is not in here.

## On one machine with Docker

    docker load --input image.tar
    docker run --gpus all --shm-size 16g -p 8000:8000 -v /MODELS:/models:ro -e HF_HUB_OFFLINE=1 \\
        IMAGE serve /models/NAME --tiers 128k:yarn

## On one machine with Python {python}

    python3 -m venv longrope
    longrope/bin/pip install --no-index --find-links wheels --no-deps --require-hashes --requirement requirements.txt
    longrope/bin/longrope doctor
    HF_HUB_OFFLINE=1 longrope/bin/longrope serve /MODELS/NAME --tiers 128k:yarn

## Then, from any machine

    python3 deploy/smoke.py http://HOST:8000
"""


def main() -> None:
    """Gather everything that was asked for."""
    parser = argparse.ArgumentParser(description="Gather what an installation without a network needs.")
    parser.add_argument("--device", choices=("gpu", "cpu", "none"), default="gpu", help="of the wheels (default: gpu)")
    parser.add_argument("--image", help="pull and save this image; by its digest, so that it is the one you verified")
    parser.add_argument("--archive", type=Path, help="an image saved before, such as of docker/build_cpu.sh --archive")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "airgap")
    asked = parser.parse_args()
    if asked.out.exists() and any(asked.out.iterdir()):
        sys.exit(f"airgap: expected an empty folder, found files in {asked.out}: remove it, or name another by --out.")
    asked.out.mkdir(parents=True, exist_ok=True)

    if asked.device != "none":
        gather_wheels(asked.device, asked.out / "wheels")
        (asked.out / "requirements.txt").write_text(requirements(asked.out / "wheels"))
    if asked.image:
        tag = f"longrope-vllm:{version()}"  # pulled by its digest, an image has no name to be loaded under
        run("docker", "pull", asked.image)
        run("docker", "tag", asked.image, tag)
        run("docker", "save", "--output", str(asked.out / "image.tar"), tag)
    elif asked.archive:
        shutil.copyfile(asked.archive, asked.out / "image.tar")
    for folder in ("deploy", "docs"):
        shutil.copytree(ROOT / folder, asked.out / folder, ignore=shutil.ignore_patterns("__pycache__", ".env", "keys"))
    (asked.out / "INSTALL.md").write_text(instructions())
    (asked.out / "SHA256SUMS").write_text(checksums(asked.out))
    sys.stdout.write(f"airgap: {asked.out}\n")


def gather_wheels(device: str, folder: Path) -> None:
    """Our wheel and all that it needs on ``device``, in ``folder``; what has no wheel is built."""
    ours = newest_wheel()
    if device == "gpu":
        pip_wheel(folder, f"{ours}[gpu]")
        return
    pip_wheel(folder, "--no-deps", "--require-hashes", "--requirement", str(ROOT / "docker" / "cpu.lock"))
    pip_wheel(folder, "--no-deps", str(ours))
    torch = f"torch=={argument('TORCH')}"
    here = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), torch]
    if subprocess.run(here, stderr=subprocess.DEVNULL, check=False).returncode:  # by pip's settings it is not found
        pip_wheel(folder, "--no-deps", "--index-url", argument("TORCH_INDEX"), torch)


def argument(name: str) -> str:
    """The default of an argument of docker/cpu.Dockerfile."""
    text = (ROOT / "docker" / "cpu.Dockerfile").read_text()
    (default,) = re.findall(rf"^ARG {name}=(.+)$", text, re.MULTILINE)
    return str(default)


def newest_wheel() -> Path:
    """Our wheel of this version in ``dist/``, built first if it is not there."""
    pattern = f"longrope_vllm-{version()}-*.whl"
    if not list((ROOT / "dist").glob(pattern)):
        pip_wheel(ROOT / "dist", "--no-deps", str(ROOT))
    (wheel,) = (ROOT / "dist").glob(pattern)
    return wheel


def version() -> str:
    """Of this project."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def requirements(folder: Path) -> str:
    """One line for each wheel in ``folder``: name, version and SHA-256, in pip's hash-checking form."""
    lines = []
    for wheel in sorted(folder.glob("*.whl")):
        name, release = wheel.name.split("-")[:2]
        lines.append(f"{name.replace('_', '-').lower()}=={release} --hash=sha256:{sha256(wheel)}")
    return "\n".join(lines) + "\n"


def checksums(folder: Path) -> str:
    """Every file under ``folder``, as `sha256sum --check` reads them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)


def sha256(path: Path) -> str:
    """Of the content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def instructions() -> str:
    """INSTALL.md for this version and this Python."""
    return INSTALL.format(version=version(), python=f"{sys.version_info.major}.{sys.version_info.minor}")


def pip_wheel(folder: Path, *arguments: str) -> None:
    """Wheels of what ``arguments`` name, into ``folder``; pip's own settings hold."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(folder), *arguments)


def run(*command: str) -> None:
    """Run a command; a failure ends the script with its own message."""
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"airgap: expected success, found a failure of: {' '.join(command)}")


if __name__ == "__main__":
    main()
