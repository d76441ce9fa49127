"""Prove that a server is exact: every request gets the rope of its own length, whatever else is served.

    longrope verify URL    [--model NAME] [--reference URL]
    longrope verify MODEL  [any option of longrope serve]

URL is a running server. For MODEL, a checkpoint directory or a model name, the server is started, and after it one
with other chunks and one of the shortest tier alone. Answers are compared by tokens and log-probabilities.
Exit code: 0 every check made has passed (skipped ones are listed), 1 one failed, or would not have noticed a wrong
rope, 2 nothing could be checked.
"""

import argparse
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from longrope_vllm.chosen_factors import ChosenFactors, add_factor_options
from longrope_vllm.cli import serve
from longrope_vllm.errors import LongRopeError
from longrope_vllm.lengths import parse_length
from longrope_vllm.verification.extents import ROOM
from longrope_vllm.verification.findings import Status
from longrope_vllm.verification.flows import Access, verify_model, verify_url
from longrope_vllm.verification.report import Report, names_with, write_report
from longrope_vllm.verification.schedule import Record, Result, Scope
from longrope_vllm.verification.servers import Deployment

MARKS: dict[Status, tuple[str, str]] = {
    "passed": ("passed", "green"),
    "failed": ("FAILED", "bold red"),
    "skipped": ("SKIPPED", "yellow"),
    "inconclusive": ("INCONCLUSIVE", "yellow"),
    "information": ("information", "cyan"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope verify``; with a MODEL the rest go to the servers."""
    parser.allow_abbrev = False
    parser.usage = "longrope verify URL|MODEL [options] [with a MODEL: any option of longrope serve]"
    parser.add_argument("target", metavar="URL|MODEL", help="a running server, or a model to start servers for")
    add_factor_options(parser)
    parser.add_argument("--tier-policy", metavar="POLICY", help="where requests start, as longrope serve takes it")
    parser.add_argument("--model", metavar="NAME", help="which model of the URL, where it serves several")
    parser.add_argument("--reference", metavar="URL", help="a server of the shortest tier alone, to compare URL with")
    parser.add_argument("--api-key", metavar="KEY", help="key of the servers; default: OPENAI_API_KEY, if set")
    parser.add_argument("--long", metavar="LENGTH", help="longest prompt, such as 32k; default: the deployed length")
    parser.add_argument("--concurrency", metavar="N", type=int, default=16, help="requests under load (default: 16)")
    parser.add_argument("--prompts-seed", metavar="N", type=int, help="repeat the prompts of an earlier report")
    parser.add_argument("--json", metavar="FILE", help="write the report there as well")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Verify, print the table, write the report; exit code 1 when the server is not proven to be exact."""
    asked, options = parser.parse_known_args(arguments)
    report_path = _report_path(asked.json)
    signal.signal(signal.SIGTERM, _end)
    console = Console(highlight=False)
    report = _verify(asked, options, console)
    console.print(result_table(report))
    for line in summary(report):
        console.print(line)
    if report_path is not None:
        write_report(report_path, report)
        console.print(f"report: {report_path}")
    return 0 if report.passed else 1


def _verify(asked: argparse.Namespace, options: Sequence[str], console: Console) -> Report:
    if asked.concurrency < 2:
        raise LongRopeError(f"Expected a concurrency of at least 2, found {asked.concurrency}.")
    long = None if asked.long is None else parse_length(asked.long)
    if long is not None and long < 2 * ROOM:
        raise LongRopeError(f"Expected --long of at least {2 * ROOM} tokens, found {long}: nothing fits into less.")
    scope = Scope(
        long=long,
        concurrency=asked.concurrency,
        seed=secrets.randbelow(10**9) if asked.prompts_seed is None else asked.prompts_seed,
    )
    access = Access(model=asked.model, api_key=asked.api_key or os.environ.get("OPENAI_API_KEY"))
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        watch = Watch(progress)
        record = Record(began=watch.began, asking=watch.asking, ended=watch.ended)
        if asked.target.startswith(("http://", "https://")):
            _refuse_server_options(asked, options)
            return verify_url(asked.target, access, reference=asked.reference, scope=scope, record=record)
        _refuse_url_options(asked)
        logs = Path(tempfile.mkdtemp(prefix="longrope-verify-"))
        console.print(f"server logs: {logs}")
        return verify_model(
            Deployment(
                model=asked.target,
                tiers=_tier_options(asked),
                options=tuple(options),
                stock_options=stock_options(options),
            ),
            access,
            scope=scope,
            record=record,
            logs=logs,
            waiting=watch.starting,
        )


def stock_options(options: Sequence[str]) -> tuple[str, ...]:
    """Without those of ``longrope serve`` that vLLM's server does not know."""
    parser = argparse.ArgumentParser(prog="longrope verify", add_help=False)
    serve.add_arguments(parser)
    return tuple(parser.parse_known_args(options)[1])


class Watch:
    """What is running now, for a person at a terminal, and one line for each check that ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._check = ""
        self._task = progress.add_task("")

    def starting(self, server: str, seconds: float) -> None:
        """A server is coming up; the seconds show on their own."""
        if seconds < 1:
            self._check = f"starting {server}"
            self._progress.reset(self._task, description=self._check)

    def began(self, name: str) -> None:
        """A check began."""
        self._check = name
        self._progress.reset(self._task, description=name)

    def asking(self, what: str) -> None:
        """Requests were sent."""
        self._progress.update(self._task, description=f"{self._check}: {what}")

    def ended(self, result: Result) -> None:
        """A check ended; said at once, on a terminal or not, because the next may take minutes."""
        mark, style = MARKS[result.finding.status]
        self._progress.console.print(Text.assemble((mark, style), f"  {result.name}  {result.seconds:.1f} s"))


def result_table(report: Report) -> Table:
    """One row a check."""
    table = Table(title=f"{report.model} on vLLM {report.vllm}", show_lines=True)
    table.add_column("check")
    table.add_column("result", no_wrap=True)
    table.add_column("compared, and what came of it", ratio=1)
    table.add_column("largest\ndifference", justify="right")
    table.add_column("of the\ntolerance", justify="right")
    table.add_column("seconds", justify="right")
    for result in report.results:
        finding = result.finding
        mark, style = MARKS[finding.status]
        said = Text(finding.compared)
        if finding.parted:
            said.append(f"\ntokens part in {finding.parted} of {finding.answers} pairs, which are compared up to there")
        if finding.reason is not None:
            said.append(f"\n→ {finding.reason}", style=style)
        table.add_row(
            result.name,
            Text(mark, style=style),
            said,
            _figure(finding.largest_difference, "{:.2g}"),
            _figure(finding.tolerance_used, "{:.2g} x"),
            f"{result.seconds:.1f}",
        )
    return table


def summary(report: Report) -> list[str]:
    """The last lines: what was not checked, loudly, then the verdict."""
    lines = []
    skipped, doubtful = names_with(report.results, "skipped"), names_with(report.results, "inconclusive")
    if skipped:
        lines.append(f"NOT CHECKED: {', '.join(skipped)}.")
    failed = names_with(report.results, "failed")
    if failed:
        lines.append(f"Failed: {', '.join(failed)}.")
    elif doubtful:
        lines.append(f"Not proven: a wrong rope might not have been noticed ({', '.join(doubtful)}).")
    else:
        lines.append(f"Exact in all {_count(report)} checks made.")
    return lines


def _count(report: Report) -> int:
    return len(names_with(report.results, "passed"))


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _tier_options(asked: argparse.Namespace) -> tuple[str, ...]:
    policy = () if asked.tier_policy is None else ("--tier-policy", asked.tier_policy)
    return (*ChosenFactors.from_arguments(asked).as_options(), *policy)


def _refuse_server_options(asked: argparse.Namespace, options: Sequence[str]) -> None:
    found = [*_tier_options(asked), *options]
    if found:
        raise LongRopeError(
            f"Expected no options for a server that already runs at {asked.target}, found {' '.join(found)}: leave "
            "them out, or verify a MODEL."
        )


def _refuse_url_options(asked: argparse.Namespace) -> None:
    for name in ("model", "reference"):
        if getattr(asked, name) is not None:
            raise LongRopeError(
                f"Expected --{name} only with the URL of a running server, found it with {asked.target}: leave it out."
            )


def _report_path(given: str | None) -> Path | None:
    """Checked first: minutes of work should not end without a report."""
    if given is None:
        return None
    path = Path(given)
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise LongRopeError(f"Expected a file in an existing folder for --json, found {given}: make the folder first.")
    return path


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM leaves as an exception, so that a server started here is ended."""
    sys.exit(128 + number)
