"""Measure at every length what an extension gains and what it costs, and draw it.

    longrope eval MODEL --methods none,pi,yarn --lengths 4k,8k,16k --tasks ppl,passkey --out FOLDER
    longrope eval MODEL --factors mine.json other=theirs.json --lengths 8k,64k --out FOLDER
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

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from longrope_vllm.evaluation.evaluate import Evaluation, prepare
from longrope_vllm.evaluation.exclusive import exclusive
from longrope_vllm.evaluation.records import Record
from longrope_vllm.evaluation.request import TASKS, Request, named
from longrope_vllm.evaluation.ruler import TASKS as RULER_TASKS
from longrope_vllm.evaluation.run import Told, do_all, pending
from longrope_vllm.evaluation.work import Work
from longrope_vllm.lengths import parse_length


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope eval``."""
    parser.add_argument("target", metavar="MODEL|URL", help="a checkpoint folder, or a running server")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="results; continued when it exists")
    parser.add_argument("--lengths", metavar="LENGTHS", default="4k,8k", help="tokens, such as 4k,8k,16k (4k,8k)")
    tasks = "; ".join(f"{name}: {what}" for name, what in TASKS.items())
    parser.add_argument("--tasks", metavar="TASKS", default="ppl,passkey", help=f"{tasks} (ppl,passkey)")
    compared = parser.add_argument_group("what is compared, of a MODEL")
    compared.add_argument("--methods", metavar="NAMES", help="none, checkpoint, pi, ntk, dynamic-ntk, yarn, ...")
    compared.add_argument("--factors", metavar="[LABEL=]FILE", nargs="+", action="extend", help="factors.json")
    compared.add_argument("--tiers", metavar="[LABEL=]SPEC", nargs="+", action="extend", help="as longrope serve")
    compared.add_argument(
        "--long-for-all", action="store_true", help="each also with its longest tier for every length, as stock engines"
    )
    compared.add_argument("--dtype", default="bfloat16", help="bfloat16, float16 or float32 (bfloat16)")
    compared.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    served = parser.add_argument_group("a server")
    served.add_argument("--label", help="its name in the report (the model's)")
    served.add_argument("--model", help="which model of the server, where it serves several")
    served.add_argument("--tokenizer", metavar="FOLDER", help="tokenizer, where the checkpoint is not on this machine")
    served.add_argument("--api-key", metavar="KEY", help="default: OPENAI_API_KEY, if set")
    served.add_argument("--concurrency", metavar="N", type=int, default=1, help="requests at a time (1)")
    measured = parser.add_argument_group("what is measured")
    measured.add_argument(
        "--documents",
        metavar="[GROUP=]SOURCE",
        nargs="+",
        default=["pydoc", "stdlib"],
        help="stdlib, pydoc, bible, synthetic, a text, JSONL or parquet file, a folder, hub:NAME (pydoc stdlib)",
    )
    measured.add_argument("--samples", metavar="N", type=int, default=3, help="documents of each group (3)")
    measured.add_argument(
        "--document-tokens", metavar="LENGTH", help="length they are cut to (the longest of --lengths)"
    )
    measured.add_argument("--protocol", default="prefix", help="prefix, yarn, longrope, sliding[:TOKENS] (prefix)")
    measured.add_argument("--depths", metavar="N", type=int, default=5, help="depths of passkey and needle (5)")
    measured.add_argument("--trials", metavar="N", type=int, default=2, help="questions for each length and depth (2)")
    measured.add_argument("--ruler-tasks", metavar="NAMES", help="some of RULER's tasks (all)")
    measured.add_argument("--ruler-samples", metavar="N", type=int, default=5, help="of each task and length (5)")
    measured.add_argument("--benchmarks", metavar="NAMES", help="for the task short: arc_easy,hellaswag,...")
    measured.add_argument("--benchmark-limit", metavar="N", type=int, help="the first N samples of each (all)")
    measured.add_argument("--include-path", metavar="FOLDER", type=Path, help="your own task files for lm-eval")
    measured.add_argument("--squad", metavar="FILE", type=Path, help="SQuAD file for RULER's questions (made-up ones)")
    measured.add_argument("--hotpot", metavar="FILE", type=Path, help="HotpotQA file, likewise")
    measured.add_argument("--evaluator", metavar="LABEL", help="which method chooses the key tokens of longppl")
    measured.add_argument("--chat", action="store_true", help="questions through the chat template")
    measured.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the questions (0)")


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
    return Request(
        target=asked.target,
        out=asked.out,
        lengths=tuple(sorted({parse_length(text) for text in named([asked.lengths])})),
        tasks=named([asked.tasks]),
        methods=named([asked.methods] if asked.methods else None),
        tiers=tuple(asked.tiers or ()),
        factors=tuple(asked.factors or ()),
        long_for_all=asked.long_for_all,
        dtype=asked.dtype,
        device=asked.device,
        label=asked.label,
        model=asked.model,
        tokenizer=asked.tokenizer,
        api_key=asked.api_key or os.environ.get("OPENAI_API_KEY"),
        concurrency=asked.concurrency,
        documents=tuple(asked.documents),
        samples=asked.samples,
        document_tokens=None if asked.document_tokens is None else parse_length(asked.document_tokens),
        protocol=asked.protocol,
        depths=asked.depths,
        trials=asked.trials,
        ruler_tasks=named([asked.ruler_tasks]) if asked.ruler_tasks else tuple(RULER_TASKS),
        ruler_samples=asked.ruler_samples,
        benchmarks=named([asked.benchmarks]) if asked.benchmarks else (),
        benchmark_limit=asked.benchmark_limit,
        include_path=asked.include_path,
        squad=asked.squad,
        hotpot=asked.hotpot,
        evaluator=asked.evaluator,
        chat=asked.chat,
        seed=asked.seed,
    )


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
