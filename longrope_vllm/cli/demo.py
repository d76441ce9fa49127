"""A real model answers past its trained window, with short requests beside it.

Makes the model (SmolLM2-135M-Instruct, trained to 8,192 tokens) on first use, starts the server, sends a document of
12,000 tokens with a fact hidden in it and short questions at the same time, then asks stock vLLM the same.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from longrope_vllm.demo.answers import Answer, ask_all
from longrope_vllm.demo.document import ANSWER, SHORT_QUESTIONS, long_question
from longrope_vllm.demo.model import PRESET, demo_model
from longrope_vllm.errors import DemoError
from longrope_vllm.lengths import format_length
from longrope_vllm.presets import load_preset
from longrope_vllm.server.running import running

_COMMON = (
    "--enforce-eager",
    *("--max-num-seqs", "8"),
    *("--max-num-batched-tokens", "512"),
    # A step keeps room for the short requests beside a chunk of the long one.
    *("--long-prefill-token-threshold", "384"),
)
_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the demo."""
    parser.add_argument("--fetch", metavar="LINK", type=Path, help="only make the model, and link it there")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Print both servers' answers side by side; exit code 0 when the fact was found past the trained window."""
    link = parser.parse_args(arguments).fetch
    if link is not None and os.path.lexists(link):
        raise DemoError(f"Expected a new name for --fetch, found something at {link}: name another.")
    console = Console()
    model = demo_model(console.print)
    if link is not None:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(model)
        return 0
    factors = load_preset(PRESET)
    console.print(f"factors: preset {PRESET}, searched, up to {format_length(factors.max_length)} tokens")
    questions = [long_question(model), *SHORT_QUESTIONS]
    logs = Path(tempfile.mkdtemp(prefix="longrope-demo-"))
    console.print(f"server logs: {logs}")
    with_plugin = _answers(
        console,
        "longrope serve",
        "longrope_vllm.cli.main",
        ["serve", str(model), "--preset", PRESET, "--no-files", *_COMMON],
        _ENVIRONMENT,
        questions,
        logs / "longrope.log",
    )
    without = _answers(
        console,
        "stock vLLM, same model",
        "vllm.entrypoints.openai.api_server",
        # Told that its window is longer, vLLM tabulates the model's own rope that far; nothing else changes.
        [
            "--model",
            str(model),
            "--hf-overrides",
            json.dumps({"max_position_embeddings": factors.max_length}),
            *_COMMON,
        ],
        {**_ENVIRONMENT, "VLLM_PLUGINS": ""},
        questions,
        logs / "stock.log",
    )
    return _compare(console, format_length(factors.trained_window), with_plugin, without)


def _answers(
    console: Console,
    name: str,
    module: str,
    options: list[str],
    environment: dict[str, str],
    questions: list[str],
    log: Path,
) -> list[Answer]:
    with console.status(f"{name}: starting") as status:

        def waiting(seconds: float) -> None:
            status.update(f"{name}: starting, {seconds:.0f} s (about 50 s on two CPU cores)")

        with running(module, options, environment=environment, log=log, waiting=waiting) as server:
            console.print(f"{name}: ready at {server.url}")
            status.update(f"{name}: reading the document, answering {len(questions) - 1} short questions beside it")
            return ask_all(
                server.url,
                questions,
                tiers="serve" in options,
                report=lambda line: console.print(f"{name}: {line}"),
            )


def _compare(console: Console, window: str, with_plugin: list[Answer], without: list[Answer]) -> int:
    table = Table(title=f"The same questions, all at once; trained window {window} tokens", show_lines=True)
    for column in ("prompt\ntokens", "longrope-vllm", "tier\n(tokens)", "first\ntoken", "stock vLLM", "first\ntoken"):
        table.add_column(column, overflow="fold")
    for ours, stock in zip(with_plugin, without, strict=True):
        table.add_row(
            f"{ours.prompt_tokens:,}",
            ours.text,
            ours.tier,
            f"{ours.first_token:.1f} s",
            stock.text,
            f"{stock.first_token:.1f} s",
        )
    console.print(table)
    found, found_without = ANSWER in with_plugin[0].text, ANSWER in without[0].text
    same = sum(ours.text == stock.text for ours, stock in zip(with_plugin[1:], without[1:], strict=True))
    console.print(f"Hidden fact ({ANSWER}): longrope-vllm {_verdict(found)}, stock vLLM {_verdict(found_without)}.")
    console.print(f"Short answers equal to the unmodified model's: {same} of {len(with_plugin) - 1}.")
    return 0 if found else 1


def _verdict(found: bool) -> str:
    return "[green]found it[/green]" if found else "[red]did not find it[/red]"
