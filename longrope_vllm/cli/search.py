"""Find the rope factors of a checkpoint for longer sequences (or for short ones, after fine-tuning).

    longrope search MODEL --target 64k --documents TEXT --out FILE          one tier
    longrope search tiers MODEL --lengths 16k,32k --documents TEXT --out FILE   a tier for each length
    longrope search short MODEL --lengths 4k,8k --from tuned.json --out FILE
    longrope search worker --study factors.study.log                        help a search, from another GPU or machine
    longrope search report --study factors.study.log --out search.html      draw a search, also a running one

What is measured stays in the study: the same command goes on where it was interrupted, to the same result.
"""

import argparse
import importlib
from collections.abc import Sequence

from longrope_vllm.extras import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is searched and how is said after the first word, which decides what else there is to say."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="MODEL|tiers|short|worker|report ...")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Search, help a search, or draw one."""
    for module in ("optuna", "cma", "jinja2", "scipy.optimize", "transformers"):
        require(module, "search")
    return int(importlib.import_module("longrope_search.command").run(parser, arguments))
