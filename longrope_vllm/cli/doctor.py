"""Check this installation and, with MODEL, say what that checkpoint gets here and in other engines.

Exit code: 0 all is well (warnings allowed), 1 a check failed, 2 the checkpoint cannot be read.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longrope_vllm.engine_views import EngineView, engine_views, served_tiers
from longrope_vllm.factors import Tier
from longrope_vllm.geometry import read_config
from longrope_vllm.installation import Check, Status, check_installation
from longrope_vllm.rope_lint import lint

MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED", "bold red"),
}


@dataclass(frozen=True, kw_only=True)
class CheckpointReport:
    """What is said about one checkpoint."""

    model: str
    tiers: tuple[Tier, ...]
    """As served here by default; empty for a checkpoint that is not longrope."""
    engines: tuple[EngineView, ...]
    findings: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope doctor``."""
    parser.add_argument("model", nargs="?", help="checkpoint directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Look at the checkpoint first (a moment), then at the installation (seconds)."""
    asked = parser.parse_args(arguments)
    report = None if asked.model is None else checkpoint_report(asked.model)
    if asked.json:
        checks = check_installation()
        document = {
            "ok": exit_code(checks) == 0,
            "installation": [asdict(check) for check in checks],
            "checkpoint": None if report is None else asdict(report),
        }
        print(json.dumps(document, indent=2))
        return exit_code(checks)
    console = Console(highlight=False)
    with console.status("Importing vLLM …"):
        checks = check_installation()
    console.print(check_table(checks))
    if report is not None:
        print_report(console, report)
    console.print(Text(f"\n{summary(checks)}"))
    return exit_code(checks)


def checkpoint_report(model: str) -> CheckpointReport:
    """Read ``model``. Raises ``CheckpointError`` or ``FactorsError``."""
    config = read_config(model)
    served = served_tiers(config)
    return CheckpointReport(
        model=model,
        tiers=() if served is None else served.tiers,
        engines=tuple(engine_views(config)),
        findings=() if served is None else tuple(lint(config)),
    )


def print_report(console: Console, report: CheckpointReport) -> None:
    """One section an engine, then the findings."""
    for view in report.engines:
        console.print(Text(f"\n{view.engine}", style="bold"))
        console.print(sentence_table(view.sentences))
    if report.findings:
        console.print(Text("\nFindings in config.json", style="bold"))
        console.print(sentence_table([f"{finding}." for finding in report.findings]))


def exit_code(checks: Sequence[Check]) -> int:
    """1 when a check failed."""
    return int(any(check.status == "failed" for check in checks))


def summary(checks: Sequence[Check]) -> str:
    """The last line."""
    failed = [check.name for check in checks if check.status == "failed"]
    return f"Failed: {', '.join(failed)}." if failed else "Ready to serve."


def check_table(checks: Sequence[Check]) -> Table:
    """One row a check, its remedy on the line below."""
    table = Table.grid(padding=(0, 2))
    for check in checks:
        mark, style = MARKS[check.status]
        table.add_row(Text(mark, style=style), Text(check.name, style="bold"), Text(check.found))
        if check.remedy is not None:
            table.add_row("", "", Text(f"→ {check.remedy}", style=style))
    return table


def sentence_table(sentences: Sequence[str]) -> Table:
    """A list with a hanging indent."""
    table = Table.grid(padding=(0, 1))
    for sentence in sentences:
        table.add_row(" -", Text(sentence))
    return table
