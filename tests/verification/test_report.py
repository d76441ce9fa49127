"""The report: its file against the published schema, and what a person reads at the end."""

import json
from collections.abc import Sequence
from importlib.resources import files
from io import StringIO
from math import inf
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from longrope_vllm.cli.verify import result_table, summary
from longrope_vllm.verification.answers import TierInForce
from longrope_vllm.verification.findings import Finding, Status, skipped
from longrope_vllm.verification.report import Report, write_report
from longrope_vllm.verification.schedule import Result

PASSED = Finding(
    status="passed",
    compared="this with that",
    largest_difference=0.001,
    mean_difference=0.0005,
    tolerance_used=0.5,
    answers=4,
    positions=64,
    parted=1,
)


def report(*findings: tuple[str, Finding]) -> Report:
    return Report(
        target="http://somewhere:8000",
        model="tiny",
        started="2026-11-22T03:00:00+00:00",
        seconds=12.34,
        seed=7,
        vllm="0.32.0",
        tiers=(TierInForce(max_length=256, plain=True, own=True, identity="abc"),),
        results=tuple(Result(name=name, finding=finding, seconds=1.234) for name, finding in findings),
    )


def failing(reason: str = "they differ") -> Finding:
    return Finding(status="failed", compared="this with that", reason=reason, largest_difference=inf)


@pytest.mark.parametrize(
    "findings",
    [[("one", PASSED)], [("one", PASSED), ("two", failing()), ("three", skipped("all of it", "there is no other"))]],
)
def test_the_file_has_the_published_form(findings: Sequence[tuple[str, Finding]], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, report(*findings))
    schema = json.loads(files("longrope_vllm.verification").joinpath("report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    found = json.loads(path.read_text())
    jsonschema.validate(found, schema)
    assert [check["name"] for check in found["checks"]] == [name for name, _ in findings]


def test_an_infinite_difference_is_written_as_a_word(tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", report(("one", failing())))
    assert json.loads((tmp_path / "report.json").read_text())["checks"][0]["largest_difference"] == "infinite"


@pytest.mark.parametrize(
    ("status", "passed"),
    [("passed", True), ("skipped", True), ("inconclusive", False), ("information", True), ("failed", False)],
)
def test_only_a_failed_check_makes_the_report_fail(status: Status, passed: bool) -> None:
    assert report(("one", PASSED), ("two", Finding(status=status, compared="this"))).passed is passed


def test_what_was_not_checked_is_said_before_the_verdict() -> None:
    doubtful = Finding(status="inconclusive", compared="this", reason="too noisy")
    lines = summary(report(("one", PASSED), ("two", skipped("this", "no other")), ("three", doubtful)))
    assert lines == [
        "NOT CHECKED: two.",
        "Not proven: a wrong rope might not have been noticed (three).",
    ]


def test_the_last_line_names_what_failed() -> None:
    assert summary(report(("one", failing()), ("two", failing())))[-1] == "Failed: one, two."


def test_the_table_shows_figures_and_reasons_as_they_are() -> None:
    console = Console(file=StringIO(), width=120)
    console.print(result_table(report(("one", PASSED), ("two", failing("found [/red] in it")))))
    assert isinstance(console.file, StringIO)
    printed = console.file.getvalue()
    assert "tokens part in 1 of 4 pairs" in printed
    assert "0.5 x" in printed
    assert "→ found [/red] in it" in printed
