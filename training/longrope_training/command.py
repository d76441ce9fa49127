"""The command line of training: ``longrope train`` hands everything after its name to ``run``."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from transformers.utils import logging

from longrope_training.merge import merge_command
from longrope_training.model_card import put_evaluation
from longrope_training.recipe import Recipe
from longrope_training.recipe_file import read_recipe, recipe_of
from longrope_training.recipe_options import add_recipe_options, values_of
from longrope_training.run import train

Arguments = Sequence[str]


def run(parser: argparse.ArgumentParser, arguments: Arguments) -> int:
    """``longrope train ARGUMENTS``. Raises ``LongRopeError``."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of every length past the trained window
    first = arguments[0] if arguments else "--help"
    if first in _OTHERS:
        return _OTHERS[first](f"{parser.prog} {first}", arguments[1:])
    options = argparse.ArgumentParser(
        prog=parser.prog, description=parser.description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("recipe", metavar="RECIPE.toml|MODEL", type=Path, help="a recipe, or a checkpoint folder")
    add_recipe_options(options)
    asked = options.parse_args(arguments)
    logging.disable_progress_bar()  # of loading and writing weights, between lines of our own
    train(_recipe(asked.recipe, asked), Console(highlight=False, soft_wrap=True))
    return 0


def _recipe(place: Path, asked: argparse.Namespace) -> Recipe:
    changed = values_of(asked)
    return recipe_of({"model": place, **changed}) if place.is_dir() else read_recipe(place, changed)


def _card(prog: str, arguments: Arguments) -> int:
    options = argparse.ArgumentParser(prog=prog, description="Put the results of longrope eval into a model card.")
    options.add_argument("model", metavar="FOLDER", type=Path, help="a checkpoint that longrope train made")
    options.add_argument("--eval", metavar="RESULTS", type=Path, required=True, help="folder of longrope eval")
    asked = options.parse_args(arguments)
    put_evaluation(asked.model, asked.eval)
    return 0


_OTHERS: Mapping[str, Callable[[str, Arguments], int]] = {"merge": merge_command, "card": _card}
"""First word to what it does, for those that are about checkpoints that exist."""
