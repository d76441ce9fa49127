"""Say beforehand what fits into which GPUs.

longrope plan train MODEL --gpus 8xh100-80 --lengths 128k,1M       what can be trained, and the options for it
"""

import argparse
import importlib
from collections.abc import Sequence

from longrope_vllm.errors import EXIT_CODE, LongRopeError

_PLANS = {"train": "longrope_training.plan_command"}
"""What is planned, to the module whose ``run`` plans it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is planned is the first word, which decides what else there is to say."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="train ...")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Plan what the first word says. Raises ``LongRopeError`` for another."""
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help()
        return 0 if arguments else EXIT_CODE
    first, *rest = arguments
    if first not in _PLANS:
        raise LongRopeError(f"Expected longrope plan {', '.join(_PLANS)}, found {first!r}.")
    return int(importlib.import_module(_PLANS[first]).run(f"{parser.prog} {first}", rest))
