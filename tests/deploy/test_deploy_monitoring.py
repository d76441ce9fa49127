"""Alerts, dashboard and scaling: real PromQL over metrics that exist, and alerts that fire when they should."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from longrope_vllm.plan.timeouts import BESIDE
from longrope_vllm.plugin import metrics
from manifests import DEPLOY, ROOT, checked, manifests, the, tool

CASES = {
    overlay: Path(__file__).with_name(name)
    for overlay, name in (("single-gpu", "alert_cases.yaml"), ("multi-node", "group_alert_cases.yaml"))
}
ELSEWHERE = {
    *("up", "http_requests_total"),
    *("kube_pod_container_status_restarts_total", "kube_pod_start_time", "kube_pod_info"),
}
"""Of Prometheus, kube-state-metrics, and the library by which vLLM counts HTTP requests."""


def groups(overlay: str) -> list[Any]:
    """The groups of the chart's PrometheusRule."""
    found: list[Any] = the("PrometheusRule", manifests(overlay))["spec"]["groups"]
    return found


def alerts() -> dict[str, Any]:
    """Every alert by its name."""
    return {rule["alert"]: rule for group in groups("single-gpu") for rule in group["rules"]}


def panels() -> list[Any]:
    """The dashboard's panels that draw something."""
    dashboard = json.loads(the("ConfigMap", manifests("single-gpu"), "longrope-dashboard")["data"]["longrope.json"])
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """All PromQL of the chart, Grafana's variables replaced."""
    drawn = [target["expr"] for panel in panels() for target in panel["targets"]]
    scaled = the("ScaledObject", manifests("air-gapped"))["spec"]["triggers"][0]["metadata"]["query"]
    written = [*drawn, scaled, *(rule["expr"] for rule in alerts().values())]
    return [re.sub(r"\$\w+", "longrope", text.replace("$__rate_interval", "5m")) for text in written]


def known() -> set[str]:
    """Names of series that servers export: the plugin's from its registry, vLLM's from its source."""
    loggers = pytest.importorskip("vllm.v1.metrics").__path__[0] + "/loggers.py"
    named = set(re.findall(r'"(vllm:\w+)"', Path(loggers).read_text()))
    ours = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("longrope_")}
    assert metrics.REQUESTS._name in ours
    suffixes = ("", "_total", "_bucket", "_sum", "_count")
    return {name + suffix for name in named | ours for suffix in suffixes} | ELSEWHERE


def test_every_series_in_alerts_panels_and_scaling_is_exported() -> None:
    used = {name for text in expressions() for name in re.findall(r"([a-zA-Z_:]\w*(?::\w+)?)\{", text)}
    assert used > {"longrope_queued_prompt_tokens", "vllm:kv_cache_usage_perc"}
    assert used <= known()


def test_every_expression_is_promql(tmp_path: Path) -> None:
    records = [{"record": f"expression:{number}", "expr": text} for number, text in enumerate(expressions())]
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": records}]}))
    assert f"{len(records)} rules found" in checked(tool("promtool"), "check", "rules", rules)


@pytest.mark.parametrize("overlay", CASES)
def test_the_alerts_fire_when_they_should(overlay: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups(overlay)}))
    shutil.copy(CASES[overlay], tmp_path)
    checked(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", tmp_path / "rules.yaml")
    checked(tool("promtool"), "test", "rules", tmp_path / CASES[overlay].name)


def test_the_longest_first_token_of_the_guide_has_a_bucket() -> None:
    """Above the last one a quantile is the last one, and the alert would never fire."""
    minutes = re.findall(r"–(\d+) min \|", (ROOT / "docs" / "deploy.md").read_text())
    assert metrics.FIRST_TOKEN_SECONDS._upper_bounds[-2] > 60 * BESIDE * max(map(int, minutes))


def test_every_alert_has_a_case_and_a_chapter() -> None:
    cases, guide = CASES["single-gpu"].read_text(), (ROOT / "docs" / "deploy.md").read_text()
    for name, rule in alerts().items():
        assert name in cases
        assert f"\n### {name}\n" in guide
        assert rule["annotations"]["runbook_url"].endswith(f"#{name.lower()}")
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_the_dashboard_shows_what_a_tier_gets() -> None:
    by_tier = [panel for panel in panels() if any("tier" in target["legendFormat"] for target in panel["targets"])]
    shown = {
        name for panel in by_tier for target in panel["targets"] for name in re.findall(r"longrope_\w+", target["expr"])
    }
    assert {name.removesuffix("_bucket").removesuffix("_total") for name in shown} == {
        metric.name for metric in REGISTRY.collect() if metric.name.startswith("longrope_")
    } - {"longrope_queued_prompt_tokens"}


def test_panels_have_places_and_titles_of_their_own() -> None:
    dashboard = json.loads((DEPLOY / "chart" / "files" / "dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
