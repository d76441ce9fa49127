"""``longrope``: parse the command line, run one subcommand, turn every expected error into one sentence.

Exit codes: 0 done, 2 bad input or an unsupported set-up, 1 a check that failed (``doctor``, ``verify``), 130
interrupted.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from longrope_vllm.errors import EXIT_CODE, LongRopeError

COMMANDS = {
    "serve": "start an OpenAI-compatible server, every request with the rope of its own length",
    "keys": "API keys of a server with their limits: add, list, rotate, retire, remove",
    "ask": "ask about long documents, with progress, over HTTP",
    "demo": "a real model answers past its trained window, beside short requests",
    "apply": "write factors into a checkpoint, or undo it",
    "show": "geometry, tiers and wavelengths of a checkpoint, with a plot",
    "eval": "perplexity, passkey, RULER and more by length, for several sets of factors",
    "search": "find the factors of a checkpoint for longer sequences",
    "train": "fine-tune a checkpoint with its factors, in stages, with short and long rows side by side",
    "plan": "what fits into which GPUs, before anything is loaded",
    "verify": "prove that a server is exact: boundaries, crossings, neighbours, chunks, caches",
    "doctor": "check this installation, and what a checkpoint would get here and elsewhere",
}
"""Subcommand to its line of help; the module of the same name implements it."""


def build_parser() -> argparse.ArgumentParser:
    """The parser without subcommand options: those are added by the module that is asked for."""
    parser = argparse.ArgumentParser(prog="longrope", description="LongRoPE for vLLM.")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("command", nargs="?", choices=list(COMMANDS), metavar="command", help=_command_help())
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see longrope COMMAND --help")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``longrope ARGV`` and return its exit code."""
    parser = build_parser()
    asked = parser.parse_args(argv)
    if asked.version:
        from importlib.metadata import version

        print(f"longrope-vllm {version('longrope-vllm')}")
        return 0
    if asked.command is None:
        parser.print_help()
        return EXIT_CODE
    module = importlib.import_module(f"longrope_vllm.cli.{asked.command}")
    subparser = argparse.ArgumentParser(prog=f"longrope {asked.command}", description=module.__doc__)
    subparser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(subparser)
    try:
        return int(module.run(subparser, asked.arguments))
    except (LongRopeError, OSError) as error:
        print(f"longrope {asked.command}: {error}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print(f"longrope {asked.command}: interrupted", file=sys.stderr)
        return 130


def _command_help() -> str:
    return "; ".join(f"{name}: {line}" for name, line in COMMANDS.items())


if __name__ == "__main__":
    sys.exit(main())
