"""Check objects of KEDA and the Prometheus operator, and refuse fields that these do not know.

    python custom_kinds.py FILE...     (with the environment of make tools, which has the models)

In: files of YAML documents. Exit status 1 with what is wrong, also for a kind that is not known here.
"""

import sys
from pathlib import Path

import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from pydantic import ValidationError

MODELS = {
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObject,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRule,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitor,
}


def main(paths: list[str]) -> int:
    """Check every document; exit status."""
    documents = [document for path in paths for document in yaml.safe_load_all(Path(path).read_text())]
    wrong = [line for document in documents for line in faults(document)]
    print("\n".join(wrong))
    return 1 if wrong else 0


def faults(document: dict[str, object]) -> list[str]:
    """What is wrong with one object."""
    kind = str(document.get("apiVersion")), str(document.get("kind"))
    if kind not in MODELS:
        return [f"unknown kind: {kind}"]
    try:
        MODELS[kind].model_validate(document, extra="forbid")
    except ValidationError as error:
        return [f"{kind[1]}: {line}" for line in str(error).splitlines()]
    return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
