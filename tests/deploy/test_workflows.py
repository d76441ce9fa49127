"""GitHub's workflows: sound by zizmor and their schema; every action pinned by commit; what a release signs."""

import re
import subprocess
from pathlib import Path

import pytest
from test_images import ROOT, tool

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = (ROOT / ".github" / "workflows" / "release.yml").read_text()


def test_zizmor_finds_nothing() -> None:
    command = [tool("zizmor"), "--offline", "--no-progress", "--quiet", *WORKFLOWS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_its_actions_and_starts_without_rights(workflow: Path) -> None:
    text = workflow.read_text()
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)
    assert "\npermissions:\n  contents: read\n" in text


def test_workflows_agree_on_the_commit_of_an_action() -> None:
    used = {action for path in WORKFLOWS for action in re.findall(r"uses: (\S+ # \S+)", path.read_text())}
    assert len(used) == len({action.partition("@")[0] for action in used})


def test_a_release_builds_every_image_with_sbom_provenance_and_attestation() -> None:
    (built,) = re.findall(r"image: \[(.+)\]", RELEASE)
    assert set(built.split(", ")) == {path.name.partition(".")[0] for path in (ROOT / "docker").glob("*.Dockerfile")}
    assert 'echo "name=ghcr.io/${GITHUB_REPOSITORY,,}/$IMAGE"' in RELEASE
    assert "sbom: true" in RELEASE
    assert "provenance: mode=max" in RELEASE
    assert RELEASE.count("actions/attest-build-provenance@") == 2


def test_what_is_deployed_are_images_of_a_release() -> None:
    (built,) = re.findall(r"image: \[(.+)\]", RELEASE)
    texts = [path.read_text() for path in (ROOT / "deploy").rglob("*.yaml")]
    named = {name for text in texts for name in re.findall(r"(?:image:|repository:|name:) longrope-vllm/(\w+)", text)}
    assert named == set(built.split(", "))
