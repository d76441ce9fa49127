"""``benchmarks/gpu/wheelhouse.py`` against an index that is a folder of made wheels: what is gathered, what is left."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

WHEELHOUSE = Path(__file__).parents[2] / "benchmarks" / "gpu" / "wheelhouse.py"
ANY = "py3-none-any"
INDEX = {
    ("engine", "1.0", ANY): ["kernels>=2", "Words.Of-It[fast]", 'windows-only; platform_system == "Windows"', "large"],
    ("kernels", "1.0", ANY): [],
    ("kernels", "2.0", "cp312-cp312-manylinux_2_28_x86_64"): ["words_of_it<2"],
    ("kernels", "3.0", "cp313-cp313-manylinux_2_28_x86_64"): [],
    ("words_of_it", "1.0", ANY): ['speed; extra == "fast"', 'slowness; extra == "slow"'],
    ("words_of_it", "2.0", ANY): [],
    ("speed", "1.0", ANY): [],
    ("large", "9.0", ANY): ["larger"],
    ("fixed", "1.0", ANY): ["speed>1"],
}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for (name, version, tag), needed in INDEX.items():
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        info = f"{name}-{version}.dist-info"
        with ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
            wheel.writestr(f"{info}/METADATA", head + "".join(f"Requires-Dist: {line}\n" for line in needed))
            wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            wheel.writestr(f"{info}/RECORD", "")
    return folder


def gather(index: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, str(WHEELHOUSE), str(index.parent / "wheels"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def gathered(index: Path) -> list[str]:
    return sorted("-".join(wheel.name.split("-")[:2]) for wheel in (index.parent / "wheels").glob("*.whl"))


def test_all_that_is_needed_there_and_not_there_yet_is_gathered(index: Path) -> None:
    (index.parent / "there.txt").write_text("large==9.0\nkernels==1.0\nunheard-of==3\n")
    done = gather(index, "engine", "--present", str(index.parent / "there.txt"))
    assert done.returncode == 0, done.stderr
    # Kernels of 1.0 do not do, those of 3.0 are of another Python, and they ask for words before 2.
    assert gathered(index) == ["engine-1.0", "kernels-2.0", "speed-1.0", "words_of_it-1.0"]
    assert "4 wheels" in done.stdout


def test_what_it_does_without_is_left_out_and_wheels_of_earlier_calls_go(index: Path) -> None:
    (index.parent / "wheels").mkdir()
    (index.parent / "wheels" / "speed-0.5-py3-none-any.whl").touch()
    assert gather(index, "engine", "--without", "Large,speed").returncode == 0
    assert gathered(index) == ["engine-1.0", "kernels-2.0", "words_of_it-1.0"]


def test_versions_that_cannot_be_met_together_are_told_with_who_asks(index: Path) -> None:
    refused = gather(index, "engine", "fixed", "--without", "large")
    assert refused.returncode == 1
    assert "any by words_of_it-1.0-py3-none-any.whl; >1 by fixed-1.0-py3-none-any.whl" in refused.stderr
    assert "name another version of one of those that ask" in refused.stderr


def test_what_no_index_has_is_an_error(index: Path) -> None:
    assert "Expected a wheel of larger for Python 3.12" in gather(index, "large").stderr


def test_a_visit_gathers_the_extras_that_the_engine_is_installed_with() -> None:
    stated = tomllib.loads((WHEELHOUSE.parents[2] / "pyproject.toml").read_text())
    (ours,) = [line for line in stated["project"]["optional-dependencies"]["gpu"] if line.startswith("longrope-vllm[")]
    _, _, command = (WHEELHOUSE.parent / "README.md").read_text().partition("wheelhouse.py visit/wheels ")
    named = command.partition(" ")[0].strip('".')
    assert Requirement(ours).extras <= Requirement(f"longrope-vllm{named}").extras
