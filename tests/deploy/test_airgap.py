"""``make airgap``: what is gathered installs without an index, by hash, and can be checked as a whole."""

import importlib.util
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from manifests import ROOT, template

SCRIPT = ROOT / "scripts" / "airgap.py"


@pytest.fixture(scope="module")
def airgap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("airgap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_wheel(folder: Path, name: str, release: str) -> Path:
    """A wheel of one module, written by hand."""
    path = folder / f"{name}-{release}-py3-none-any.whl"
    info = f"{name}-{release}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name.lower()}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def install(folder: Path) -> subprocess.CompletedProcess[str]:
    """What INSTALL.md says, into a folder."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", "wheels", "--no-deps"]
    command += ["--require-hashes", "--requirement", "requirements.txt", "--target", "installed"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_requirements_install_exactly_these_wheels(airgap: ModuleType, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    tampered = made_wheel(wheels, "Two_Words", "1.5.post1")
    made_wheel(wheels, "engine", "2.13.0+cpu")
    (tmp_path / "requirements.txt").write_text(airgap.requirements(wheels))
    done = install(tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "installed").glob("*.py")} == {"two_words.py", "engine.py"}

    with zipfile.ZipFile(tampered, "a") as wheel:
        wheel.writestr("more.py", "")
    refused = install(tmp_path)
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


def test_a_bundle_can_be_checked_and_is_never_written_over_another(tmp_path: Path) -> None:
    image = tmp_path / "saved.tar"
    image.write_bytes(b"layers")
    out = tmp_path / "bundle"
    command = [sys.executable, str(SCRIPT), "--device", "none", "--archive", str(image), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert (out / "image.tar").read_bytes() == b"layers"
    assert (out / "deploy" / "smoke_server.py").exists()
    proxy = yaml.safe_load((out / "deploy" / "compose" / "compose.yaml").read_text())["configs"]["nginx"]["file"]
    assert (out / "deploy" / "compose" / proxy).resolve().read_text() == (ROOT / "docs" / "nginx.conf").read_text()
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, check=True
    )
    files = {path for path in out.rglob("*") if path.is_file()} - {out / "SHA256SUMS"}
    assert len(checked.stdout.splitlines()) == len(files)

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "expected an empty folder" in again.stderr


def test_the_instructions_name_what_the_bundle_holds(airgap: ModuleType) -> None:
    text = airgap.instructions()
    assert f"longrope-vllm/serve:{airgap.version()}" in text
    for part in ("image.tar", "requirements.txt", "SHA256SUMS", "deploy/smoke.py", "deploy/chart", "docs/deploy.md"):
        assert part in text


def test_the_values_in_the_instructions_are_rendered(airgap: ModuleType, tmp_path: Path) -> None:
    """Behind those of a plan: the chart's own are one."""
    lines = airgap.instructions().partition("`yours.yaml` is:\n\n")[2].partition("\n\n")[0]
    (tmp_path / "yours.yaml").write_text(textwrap.dedent(lines))
    rendered = template("--values", str(tmp_path / "yours.yaml"))
    assert rendered.returncode == 0, rendered.stderr
    assert f"image: REGISTRY/longrope-vllm/serve:{airgap.version()}" in rendered.stdout
