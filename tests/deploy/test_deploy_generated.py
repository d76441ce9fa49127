"""What stands in deploy/ and docs/deploy.md by computation is what the planner and the chart say today."""

import sys

from manifests import DEPLOY, ROOT, checked, tool


def test_plans_manifests_and_tables_are_up_to_date() -> None:
    tool("helm")
    checked(sys.executable, ROOT / "scripts" / "render_deploy.py", "--check")


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = (DEPLOY / "chart" / "Chart.yaml").read_text()
    (version,) = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = ")]
    number = version.split('"')[1]
    assert f"\nversion: {number}\n" in chart
    assert f"\nappVersion: {number}\n" in chart


def test_the_chart_holds_no_second_copy_of_what_stands_elsewhere() -> None:
    for source in (ROOT / "docs" / "nginx.conf", *DEPLOY.glob("smoke*.py")):
        link = DEPLOY / "chart" / "files" / source.name
        assert link.is_symlink()
        assert link.resolve() == source
        assert source.is_file()
