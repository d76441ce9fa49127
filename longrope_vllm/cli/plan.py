"""Say beforehand what fits into which GPUs.

longrope plan MODEL --context 1M --gpus 8xH100-80                  what a server needs, how to start it, time-outs
longrope plan train MODEL --gpus 8xh100-80 --lengths 128k,1M       what can be trained, and the options for it

A checkpoint in a folder called train is named ./train.
"""

import argparse
import importlib
from collections.abc import Sequence

from longrope_vllm.errors import EXIT_CODE

_PLANS = {"train": "longrope_training.plan_command"}
"""First words with a plan of their own, to the module whose ``run`` makes it."""

_SERVING = "longrope_vllm.plan.command"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The first word decides what else there is to say."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="MODEL|train ...")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Plan training, or the serving of the model that the first word names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help()
        return 0 if arguments else EXIT_CODE
    first, *rest = arguments
    if first in _PLANS:
        return int(importlib.import_module(_PLANS[first]).run(f"{parser.prog} {first}", rest))
    return int(importlib.import_module(_SERVING).run(parser.prog, arguments))
