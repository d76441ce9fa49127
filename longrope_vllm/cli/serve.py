"""Start an OpenAI-compatible server in which every request gets the rope of its own length.

    longrope serve MODEL [--factors FILE] [any option of vLLM's server]

MODEL is a checkpoint directory or a model name. With --factors the checkpoint is served with those tiers and stays as
it is on disk; a checkpoint that has a longrope block needs none. SIGTERM ends the server.
"""

import argparse
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope serve``; the rest go to vLLM."""
    parser.allow_abbrev = False
    parser.usage = "longrope serve MODEL [--factors FILE] [any option of vLLM's server]"
    parser.add_argument("--factors", metavar="FILE", help="factors.json to serve with")
    parser.epilog = "Every other option is passed to vLLM's server, such as --port, --max-model-len, --api-key."


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Serve until a signal ends it."""
    asked, options = parser.parse_known_args(arguments)
    from longrope_vllm.server.launch import prepare, serve

    prepared, banner = prepare(asked.factors, options)
    print(banner, flush=True)
    serve(prepared)
    return 0
