"""The command line of the search: ``longrope search`` hands everything after its name to ``run``."""

import argparse
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from optuna.storages import BaseStorage
from rich.console import Console

from longrope_search.model.passages import OBJECTIVES
from longrope_search.plan import plan
from longrope_search.progress import Watch
from longrope_search.report import write_report
from longrope_search.request import ATTENTION_FACTORS, METHODS, Kind, Request
from longrope_search.result import Found
from longrope_search.scoring.storage import open_storage, without_password, written_to
from longrope_search.scoring.study import requests, worker_name
from longrope_search.search import search, so_far
from longrope_search.space import SPACES
from longrope_search.stage import AS_TUNED
from longrope_vllm.errors import SearchError
from longrope_vllm.factors_file import write_factors
from longrope_vllm.lengths import format_length, parse_lengths

Arguments = Sequence[str]


def run(parser: argparse.ArgumentParser, arguments: Arguments) -> int:
    """``longrope search ARGUMENTS``. Raises ``LongRopeError``."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of every length past the trained window
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        parser.print_help()
        return 0
    console = Console(highlight=False, soft_wrap=True)
    if first in _OTHERS:
        return _OTHERS[first](parser.prog, arguments[1:], console)
    several = first in ("tiers", "short")
    options = _search_options(f"{parser.prog} {first}" if several else parser.prog, several=several)
    asked = vars(options.parse_args(arguments[several:]))
    lengths = parse_lengths(asked.pop("lengths"))
    documents = tuple(asked.pop("documents"))
    kind: Kind = "short" if first == "short" else "tiers"
    request = Request(kind=kind, lengths=lengths, documents=documents, **asked)
    return _search(request, without_password(shlex.join(["longrope", "search", *arguments])), console)


def _search(request: Request, command: str, console: Console) -> int:
    request.check_out()
    prepared = plan(request)
    memory = prepared.memory
    storage = open_storage(request.storage, make=True)
    console.print(str(memory))
    console.print(f"study: {without_password(request.storage)} (the same command goes on where it was interrupted)")
    with Watch(console) as watch, written_to(request.storage):
        found = search(prepared, storage, worker=worker_name(), told=watch)
    write_factors(request.out, prepared.factors(found, command=command))
    write_report(request.page, prepared, found, command=command)
    _tell(console, found)
    console.print(f"factors: {request.out}\nreport: {request.page}")
    return 0


def _tell(console: Console, found: Sequence[Found]) -> None:
    for one in found:
        rows = sorted([one.best, *one.baselines], key=lambda row: row.loss)
        shown = ", ".join(f"{row.label} {row.perplexity:.4g}" for row in rows)
        console.print(f"{format_length(one.length)}: perplexity on held-out documents: {shown}")
        if one.best.loss >= one.best_baseline.loss:
            length, form = format_length(one.length), one.best_baseline.label
            if form == AS_TUNED:
                console.print(f"{length}: nothing found was better on held-out documents, what was there was kept")
                continue
            console.print(
                f"{length}: {form} is at least as good on held-out documents: search with more documents or more "
                "evaluations, or serve that"
            )


def _work(prog: str, arguments: Arguments, console: Console) -> int:
    options = argparse.ArgumentParser(prog=f"{prog} worker")
    _study_options(options)
    options.add_argument("--device", default="auto", help="auto, cpu or cuda:N (auto)")
    asked = options.parse_args(arguments)
    storage = open_storage(asked.study, make=False)
    prepared = plan(replace(_stated(asked.study, storage, asked), device=asked.device))
    console.print(str(prepared.memory))
    with Watch(console) as watch, written_to(asked.study):
        search(prepared, storage, worker=worker_name(), told=watch)
    console.print("the search is complete; whoever started it writes the factors")
    return 0


def _report(prog: str, arguments: Arguments, console: Console) -> int:
    options = argparse.ArgumentParser(prog=f"{prog} report")
    _study_options(options)
    options.add_argument("--out", metavar="FILE", type=Path, required=True, help="HTML page to write")
    asked = options.parse_args(arguments)
    if asked.out.resolve() == Path(asked.study).resolve():
        raise SearchError(
            f"Expected a file of its own for the report, found the study {asked.study}: name another --out."
        )
    storage = open_storage(asked.study, make=False)
    prepared = plan(_stated(asked.study, storage, asked))
    found = so_far(prepared, storage)
    write_report(asked.out, prepared, found, command=shlex.join([*prog.split(), "report", *arguments]))
    console.print(f"report: {asked.out}")
    return 0


_OTHERS: Mapping[str, Callable[[str, Arguments, Console], int]] = {"worker": _work, "report": _report}
"""First word to what it does, for those that are about a search that exists."""


def _stated(place: str, storage: BaseStorage, asked: argparse.Namespace) -> Request:
    """The request of the search in ``storage``. Raises ``SearchError``."""
    found = {stated["name"] or Path(stated["out"]).stem: stated for stated in requests(storage)}
    if asked.name is None and len(found) == 1:
        asked.name = next(iter(found))
    if asked.name not in found:
        raise SearchError(
            f"Expected the name of a search in {place}, one of {', '.join(found) or 'none'}, found {asked.name}: give "
            "it with --name."
        )
    elsewhere = {"model": asked.model, "documents": asked.documents, "footing": asked.footing}
    changed = {name: value for name, value in elsewhere.items() if value}
    return Request.of_shared(found[asked.name], study=place, **changed)


def _study_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--study", metavar="FILE|URL", required=True, help="where the search keeps its measurements")
    options.add_argument("--name", help="which search, where the study holds several")
    elsewhere = options.add_argument_group("what lies elsewhere on this machine")
    elsewhere.add_argument("--model", metavar="FOLDER", help="the checkpoint")
    elsewhere.add_argument("--documents", metavar="[GROUP=]SOURCE", nargs="+", help="the texts")
    elsewhere.add_argument("--from", dest="footing", metavar="FILE", type=Path, help="factors it was fine-tuned with")


def _search_options(prog: str, *, several: bool) -> argparse.ArgumentParser:
    """Options whose names are fields of ``Request``, where their defaults stand."""
    options = argparse.ArgumentParser(prog=prog)
    add = options.add_argument
    add("model", metavar="MODEL", help="a checkpoint folder")
    if several:
        add("--lengths", metavar="LENGTHS", required=True, help="targets in tokens, such as 16k,32k,64k")
    else:
        add("--target", dest="lengths", metavar="LENGTH", required=True, help="target in tokens, such as 64k")
    add("--out", metavar="FILE", type=Path, required=True, help="factors.json to write; a report is put beside it")
    add("--from", dest="footing", metavar="FILE", type=Path, help="factors it was fine-tuned with (its rope block's)")
    add("--study", metavar="FILE|URL", default="", help="journal file, sqlite:///... or database (beside --out)")
    add("--name", default="", help="of this search, where the study holds several (that of --out)")
    how = options.add_argument_group("how")
    methods = f"{', '.join(METHODS)}, or several in a row as gradient+cma"
    how.add_argument("--method", default=Request.method, help=f"{methods} ({Request.method})")
    _choice(how, "--objective", OBJECTIVES, Request.objective)
    _choice(how, "--space", SPACES, Request.space)
    add = how.add_argument
    add("--step", type=float, default=Request.step, help=f"grid of the factors ({Request.step:g}; published: 0.01)")
    add("--largest", type=float, help="largest factor, in place of the published bound")
    add("--start-tokens", default=Request.start_tokens, help="search, or a number (search)")
    attention = ", ".join(ATTENTION_FACTORS)
    add("--attention-factor", default=Request.attention_factor, help=f"{attention} or a number (longrope)")
    add("--population", metavar="N", type=int, help="of evolution (64; 32 above 512k)")
    add("--iterations", metavar="N", type=int, help="of evolution (40)")
    add("--patience", metavar="N", type=int, help="end evolution after so many iterations without a better best")
    add("--evaluations", metavar="N", type=int, help="of cma")
    add("--steps", metavar="N", type=int, help="of gradient descent")
    add("--seed", metavar="N", type=int, default=Request.seed, help=f"of all random choices ({Request.seed})")
    data = options.add_argument_group("on what")
    add = data.add_argument
    add(
        "--documents",
        metavar="[GROUP=]SOURCE",
        nargs="+",
        default=Request.documents,
        help=f"long texts, as longrope eval takes them ({' '.join(Request.documents)})",
    )
    add("--samples", metavar="N", type=int, default=Request.samples, help=f"documents ({Request.samples})")
    add("--held-out", metavar="N", type=int, default=Request.held_out, help=f"others, for the end ({Request.held_out})")
    add("--finalists", metavar="N", type=int, default=Request.finalists, help=f"scored on those ({Request.finalists})")
    add("--no-pruning", dest="pruning", action="store_false", help="score every candidate on all documents")
    add("--dtype", default=Request.dtype, help=f"bfloat16, float16 or float32 ({Request.dtype})")
    add("--device", default=Request.device, help=f"auto, cpu or cuda:N ({Request.device})")
    return options


def _choice(group: argparse._ArgumentGroup, option: str, choices: Sequence[str], default: str) -> None:
    group.add_argument(option, choices=choices, default=default, help=f"({default})")
