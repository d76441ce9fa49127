"""The manifests of deploy/overlays as objects, the chart rendered with other values, and the tools that check them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".cache" / "deploy-tools"
OVERLAYS = ("air-gapped", "cpu-smoke", "multi-node", "single-gpu")


@cache
def manifests(overlay: str) -> list[Any]:
    """All objects of an overlay, as they are committed."""
    return objects((DEPLOY / "overlays" / overlay / "rendered.yaml").read_text())


def objects(text: str) -> list[Any]:
    """The documents of ``text`` that say anything."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def of_kind(kind: str, among: list[Any]) -> list[Any]:
    """The objects of that kind."""
    return [found for found in among if found["kind"] == kind]


def the(kind: str, among: list[Any], name: str = "longrope") -> Any:
    """The object of that kind and name."""
    (found,) = [found for found in of_kind(kind, among) if found["metadata"]["name"] == name]
    return found


def pods(among: list[Any]) -> list[Any]:
    """The pod templates, and pods, of all objects."""
    return [pod for found in among for pod in _pods(found)]


def servers(among: list[Any]) -> list[Any]:
    """The pod templates in which ``longrope serve`` runs."""
    return [pod for pod in pods(among) if _container(pod)["name"] == "longrope"]


def container(pod: Any) -> Any:
    """The only container of a pod."""
    return _container(pod)


def values(overlay: str) -> dict[str, Any]:
    """What the chart was rendered with: its values, then the overlay's files."""
    merged: dict[str, Any] = yaml.safe_load((DEPLOY / "chart" / "values.yaml").read_text())
    for name in ("plan.yaml", "values.yaml"):
        path = DEPLOY / "overlays" / overlay / name
        if path.exists():
            merged = _over(merged, yaml.safe_load(path.read_text()))
    return merged


def server_options(pod: Any) -> dict[str, str]:
    """The options of ``longrope serve`` in a pod, each with its value, whether ``--name=value`` or ``--name value``."""
    arguments = _container(pod)["args"]
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    found = (word.partition("=") if "=" in word else (word, "", after) for word, after in pairs if word[:2] == "--")
    return {name: value for name, _, value in found}


def tool(name: str) -> str:
    """Where a tool of ``make tools`` is. Without them the test is skipped, but not in CI."""
    folders = (TOOLS / "bin", TOOLS / "venv" / "bin", TOOLS / "checkov" / "bin")
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None and "CI" in os.environ and name != "promtool":  # promtool comes from Debian only
        pytest.fail(f"{name} is not installed: make tools")
    if found is None:
        pytest.skip(f"{name} is not installed: make tools")
    return found


def checked(*command: str | Path, cwd: Path = ROOT) -> str:
    """Output of a command that has to succeed."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def template(*options: str) -> "subprocess.CompletedProcess[str]":
    """``helm template`` of the chart with ``options``."""
    command = [tool("helm"), "template", "longrope", str(DEPLOY / "chart"), "--namespace", "longrope", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _pods(found: Any) -> Iterator[Any]:
    if found["kind"] == "Pod":
        yield found
    elif found["kind"] == "LeaderWorkerSet":
        group = found["spec"]["leaderWorkerTemplate"]
        yield from (group["leaderTemplate"], group["workerTemplate"])
    elif "template" in found.get("spec", {}):
        yield found["spec"]["template"]


def _container(pod: Any) -> Any:
    (only,) = pod["spec"]["containers"]
    return only


def _over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Helm's merge: maps into maps, anything else in the place of what was there."""
    both = dict(under)
    for name, value in over.items():
        known = both.get(name)
        both[name] = _over(known, value) if isinstance(value, dict) and isinstance(known, dict) else value
    return both
