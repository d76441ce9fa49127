"""Measure at every length what an extension gains and what it costs, and draw it.

    longrope eval MODEL --methods none,pi,yarn --lengths 4k,8k,16k --tasks ppl,passkey --out FOLDER
    longrope eval MODEL --factors mine.json other=theirs.json --lengths 8k,64k --documents TEXT --out FOLDER
    longrope eval URL   --lengths 8k,64k --tasks passkey,ruler --out FOLDER

MODEL is a checkpoint folder, evaluated in this process under each set of factors; URL is an OpenAI-compatible server,
evaluated as it serves. What was measured stays in FOLDER: the same command goes on where it was interrupted, and other
methods, lengths, tasks and servers may be added to it.
"""

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from longrope_vllm.evaluation.evaluate import Evaluation, prepare
from longrope_vllm.evaluation.exclusive import exclusive
from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.request import TASKS, Request
from longrope_vllm.evaluation.run import Told, do_all, pending
from longrope_vllm.evaluation.work import Work
from longrope_vllm.lengths import format_length, parse_length, parse_lengths
from longrope_vllm.presets import preset_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope eval``. What is left out is left to the defaults of ``Request``."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("target", metavar="MODEL|URL", help="a checkpoint folder, or a running server")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="results; continued when it exists")
    lengths = ",".join(map(format_length, Request.lengths))
    parser.add_argument(
        "--lengths", metavar="LENGTHS", type=parse_lengths, help=f"tokens, such as 4k,8k,16k ({lengths})"
    )
    tasks = "; ".join(f"{name}: {what}" for name, what in TASKS.items())
    parser.add_argument("--tasks", metavar="TASKS", type=_names, help=f"{tasks} ({','.join(Request.tasks)})")
    compared = parser.add_argument_group("what is compared")
    compared.add_argument(
        "--methods", metavar="NAMES", type=_names, help="none, checkpoint, pi, ntk, dynamic-ntk, yarn, ..."
    )
    compared.add_argument("--factors", metavar="[LABEL=]FILE", nargs="+", action="extend", help="factors.json")
    compared.add_argument("--preset", metavar="NAME", nargs="+", action="extend", help="factors of this package")
    compared.add_argument("--tiers", metavar="[LABEL=]SPEC", nargs="+", action="extend", help="as longrope serve")
    compared.add_argument(
        "--long-for-all", action="store_true", help="each also with its longest tier for every length, as stock engines"
    )
    compared.add_argument("--dtype", help=f"bfloat16, float16 or float32 ({Request.dtype})")
    compared.add_argument("--device", help=f"auto, cpu or cuda ({Request.device})")
    compared.add_argument("--label", help="name in the report, of a server, or before the methods of a checkpoint")
    served = parser.add_argument_group("a server")
    served.add_argument("--model", help="which model of the server, where it serves several")
    served.add_argument("--tokenizer", metavar="FOLDER", help="tokenizer, where the checkpoint is not on this machine")
    served.add_argument("--api-key", metavar="KEY", help="default: OPENAI_API_KEY, if set")
    served.add_argument("--concurrency", metavar="N", type=int, help=f"requests at a time ({Request.concurrency})")
    measured = parser.add_argument_group("what is measured")
    sources = "stdlib, pydoc, bible, synthetic, a text, JSONL or parquet file, a folder, hub:NAME"
    measured.add_argument(
        "--documents", metavar="[GROUP=]SOURCE", nargs="+", help=f"{sources} ({' '.join(Request.documents)})"
    )
    measured.add_argument("--samples", metavar="N", type=int, help=f"documents of each group ({Request.samples})")
    measured.add_argument(
        "--document-tokens",
        metavar="LENGTH",
        type=parse_length,
        help="length they are cut to (the longest of --lengths)",
    )
    measured.add_argument("--protocol", help=f"prefix, yarn, longrope, sliding[:TOKENS] ({Request.protocol})")
    measured.add_argument("--depths", metavar="N", type=int, help=f"depths of passkey and needle ({Request.depths})")
    measured.add_argument(
        "--trials", metavar="N", type=int, help=f"questions for each length and depth ({Request.trials})"
    )
    measured.add_argument("--ruler-tasks", metavar="NAMES", type=_names, help="some of RULER's tasks (all)")
    measured.add_argument(
        "--ruler-samples", metavar="N", type=int, help=f"of each task and length ({Request.ruler_samples})"
    )
    measured.add_argument(
        "--benchmarks", metavar="NAMES", type=_names, help="for the task short: arc_easy,hellaswag,..."
    )
    measured.add_argument("--benchmark-limit", metavar="N", type=int, help="the first N samples of each (all)")
    measured.add_argument("--include-path", metavar="FOLDER", type=Path, help="your own task files for lm-eval")
    measured.add_argument("--squad", metavar="FILE", type=Path, help="SQuAD file for RULER's questions (made-up ones)")
    measured.add_argument("--hotpot", metavar="FILE", type=Path, help="HotpotQA file, likewise")
    measured.add_argument("--evaluator", metavar="LABEL", help="which method chooses the key tokens of longppl")
    measured.add_argument("--chat", action="store_true", help="questions through the chat template")
    measured.add_argument("--seed", metavar="N", type=int, help=f"seed of the questions ({Request.seed})")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Evaluate and write the report."""
    asked = parser.parse_args(arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of every length past the trained window
    console = Console(highlight=False, soft_wrap=True)
    request = _request(asked)
    with exclusive(request.out):
        evaluation = prepare(request, command=command_line(arguments))
        try:
            _measure(evaluation, request, console)
        except BaseException:
            with suppress(OSError):  # what ended it is what a user should read
                _report(evaluation, request, console)
            raise
        finally:
            evaluation.close()
        _report(evaluation, request, console)
    return 0


def _report(evaluation: Evaluation, request: Request, console: Console) -> None:
    if evaluation.journal.records:
        console.print(f"report: {evaluation.report(request.out)}")


def command_line(arguments: Sequence[str]) -> str:
    """The command for the report, which others will read: without keys and passwords."""
    shown = [re.sub("(?<=://)[^/@]*@", "", word) for word in arguments]
    for place, word in enumerate(shown):
        if word.startswith("--api-key="):
            shown[place] = "--api-key=..."
        elif place and shown[place - 1] == "--api-key":
            shown[place] = "..."
    return shlex.join(["longrope", "eval", *shown])


def _request(asked: argparse.Namespace) -> Request:
    given = {"api_key": os.environ.get("OPENAI_API_KEY"), **vars(asked)}
    if presets := given.pop("preset", None):
        given["factors"] = [*given.get("factors", ()), *(f"{name}={preset_path(name)}" for name in presets)]
    frozen: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return Request(**frozen)


def _names(text: str) -> tuple[str, ...]:
    """Words between commas, doubles removed."""
    parts = (part.strip() for part in text.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def _measure(evaluation: Evaluation, request: Request, console: Console) -> None:
    left = pending(evaluation.work, evaluation.journal)
    kept = len(evaluation.work) - len(left)
    for note in evaluation.notes:
        console.print(note)
    console.print(f"{len(left)} measurements to make" + (f", {kept} kept from before" if kept else ""))
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        told = Watch(progress, left)
        do_all(left, evaluation.journal, concurrency=request.concurrency, told=told)


class Watch(Told):
    """A bar for a person at a terminal, and a line for each measurement elsewhere; both with the time that is left."""

    def __init__(self, progress: Progress, work: Sequence[Work]) -> None:
        self._progress = progress
        self._all = sum(piece.cost for piece in work)
        self._done = 0.0
        self._count = 0
        self._of = len(work)
        self._started = monotonic()
        self._bar = progress.add_task("", total=self._all, left="")

    def began(self, work: Work) -> None:
        """A measurement began."""
        self._progress.update(self._bar, description=work.title)

    def ended(self, work: Work, records: Sequence[Record]) -> None:
        """A measurement was written down."""
        self._done += work.cost
        self._count += 1
        elapsed = monotonic() - self._started
        left = f"about {elapsed / self._done * (self._all - self._done) / 60:.0f} min left"
        self._progress.update(self._bar, advance=work.cost, left=left)
        if self._progress.disable:
            self._progress.console.print(f"{self._count}/{self._of}  {work.title}  {result(records[-1])}, {left}")


def result(record: Record) -> str:
    """The figure of one record that says most."""
    if record.values.get("tokens") == 0:
        return "no key token"
    name = next((name for name in ("loss", "score") if name in record.values), next(iter(record.values)))
    return f"{name} {record.values[name]:.3f}"
