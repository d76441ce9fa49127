"""Fine-tune a checkpoint with its factors, so that it reads the long and keeps the short.

    longrope train recipe.toml
    longrope train MODEL --factors factors.json --stage 128k:400,256k:600 --data books.jsonl --out tuned
    accelerate launch --num_processes 8 -m longrope_vllm.cli.main train recipe.toml     several GPUs
    longrope train merge TUNED BASE --share 0.5 --out merged                            average two checkpoints
    longrope train card FOLDER --eval RESULTS                                           results into the model card

The same command goes on where it was interrupted, to the same result.
"""

import argparse
import importlib
from collections.abc import Sequence

from longrope_vllm.extras import require


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is said depends on the first word."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="RECIPE.toml|MODEL|merge|card ...")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Train, or work on checkpoints that were trained."""
    for module in ("transformers", "accelerate", "peft", "tensorboard"):
        require(module, "train")
    return int(importlib.import_module("longrope_training.command").run(parser, arguments))
