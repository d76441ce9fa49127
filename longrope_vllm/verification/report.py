"""The report as a file: JSON, versioned, with a schema (``report.schema.json`` beside this file)."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

from longrope_vllm.atomic import write_atomically
from longrope_vllm.verification.answers import TierInForce
from longrope_vllm.verification.schedule import Result

SCHEMA = "longrope-verification/1"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one run of ``longrope verify`` found."""

    target: str
    """The URL or the model that was verified."""
    model: str
    """The name under which it is served."""
    started: str
    """Date and time in ISO 8601, UTC."""
    seconds: float
    seed: int
    """Of the prompts."""
    vllm: str
    tiers: tuple[TierInForce, ...]
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """True when no check failed and each that was made proves something; whether any was skipped is told apart."""
        return not any(result.finding.status in ("failed", "inconclusive") for result in self.results)


def names_with(results: Sequence[Result], status: str) -> list[str]:
    """Names of the results with ``status``."""
    return [result.name for result in results if result.finding.status == status]


def document(report: Report) -> dict[str, Any]:
    """``report`` in the form of the schema."""
    return {
        "schema": SCHEMA,
        "passed": report.passed,
        "target": report.target,
        "model": report.model,
        "started": report.started,
        "seconds": round(report.seconds, 1),
        "seed": report.seed,
        "versions": {
            "longrope-vllm": version("longrope-vllm"),
            "vllm": report.vllm,
            "python": platform.python_version(),
        },
        "tiers": [asdict(tier) for tier in report.tiers],
        "checks": [
            {"name": result.name, **_finite(asdict(result.finding)), "seconds": round(result.seconds, 2)}
            for result in report.results
        ],
    }


def write_report(path: Path, report: Report) -> None:
    """Write ``report`` atomically."""
    write_atomically(path, json.dumps(document(report), indent=2, allow_nan=False) + "\n")


def _finite(finding: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity; a difference without bound becomes text."""
    return {
        name: "infinite" if isinstance(value, float) and not isfinite(value) else value
        for name, value in finding.items()
    }
