"""checkov's rules for Kubernetes on every manifest; those not followed stand in .checkov.yaml with a reason."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from manifests import DEPLOY, OVERLAYS, ROOT, checked, objects, of_kind, pods, server_options, tool

WITHOUT_PROBES = "a worker serves no HTTP; it ends with its leader, and its group starts again"


def known_to_checkov(found: list[Any]) -> list[Any]:
    """``found``, the pods of a LeaderWorkerSet, which checkov does not know, as pods."""
    known = [one for one in found if one["kind"] != "LeaderWorkerSet"]
    inner = [pod for one in of_kind("LeaderWorkerSet", found) for pod in pods([one])]
    for number, pod in enumerate(inner):
        metadata = {**pod["metadata"], "name": f"pod-{number}", "namespace": "longrope"}
        if "--headless" in server_options(pod):
            skips = {f"checkov.io/skip{rule}": f"CKV_K8S_{rule}={WITHOUT_PROBES}" for rule in (8, 9)}
            metadata["annotations"] = {**metadata["annotations"], **skips}
        known.append({"apiVersion": "v1", "kind": "Pod", **pod, "metadata": metadata})
    return known


def test_no_rule_of_checkov_is_broken_without_a_reason(tmp_path: Path) -> None:
    for folder in (*(DEPLOY / "overlays" / overlay for overlay in OVERLAYS), DEPLOY / "jobs"):
        built = objects(checked(tool("kubectl"), "kustomize", folder))
        (tmp_path / f"{folder.name}.yaml").write_text(yaml.safe_dump_all(known_to_checkov(built)))
    options = ["--config-file", ROOT / ".checkov.yaml", "--skip-download", "--output", "json", "--directory", tmp_path]
    done = subprocess.run([tool("checkov"), *options], capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert told["summary"]["passed"] > 100
    broken = [f"{fault['check_id']} {fault['resource']}" for fault in told["results"]["failed_checks"]]
    assert not broken, "\n".join(broken)
    assert done.returncode == 0, done.stderr


def test_every_rule_that_is_skipped_has_a_reason() -> None:
    lines = (ROOT / ".checkov.yaml").read_text().splitlines()
    skipped = [line for line in lines if "CKV" in line]
    assert skipped
    assert all(re.fullmatch(r"  - CKV\w+  # \S.{20,}", line) for line in skipped)
