"""The fields of a ``Recipe`` as options of a command line: ``--learning-rate`` for ``learning_rate``, and so on.

Types, choices and help come from the fields themselves. Only what a user gave is among the values, so that no default
of an option hides what a file or a preset says.
"""

import argparse
import ast
import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from longrope_training.presets import PRESETS
from longrope_training.recipe import Recipe, Tokens
from longrope_training.recipe_file import NONE, PRESET
from longrope_vllm.errors import LongRopeError, TrainingError
from longrope_vllm.lengths import parse_length

_BY_HAND = ("model", "stages", "data")
"""Fields without an option made from their type: the first is a command's own argument."""


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """An option for each field of ``Recipe`` but ``model``, and ``--preset``."""
    explained = field_docstrings(Recipe)
    hints = get_type_hints(Recipe, include_extras=True)
    parser.add_argument(
        "--preset", choices=PRESETS, default=argparse.SUPPRESS, help="values for what is not given otherwise"
    )
    parser.add_argument(
        "--stage",
        dest="stages",
        action="extend",
        type=stages_named,
        metavar="LENGTH:STEPS[:FACTORS],...",
        default=argparse.SUPPRESS,
        help="stages one after the other, such as 128k:400,256k:600, each with factors of its own where it names some",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        type=source_named,
        metavar="SOURCE[*WEIGHT]",
        default=argparse.SUPPRESS,
        help="text to train on, as longrope eval --documents takes it, with its share of the tokens",
    )
    for field in dataclasses.fields(Recipe):
        if field.name in _BY_HAND:
            continue
        help_text = explained[field.name].replace("%", "%%")
        if field.default is not dataclasses.MISSING:
            help_text += f" (default: {_shown(field.default)})".replace("%", "%%")
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=help_text,
            **_reads(hints[field.name]),
        )


def values_of(asked: argparse.Namespace) -> dict[str, Any]:
    """What the user gave of the options above, by field and ``preset``, for ``read_recipe`` and ``recipe_of``."""
    known = {PRESET, *(field.name for field in dataclasses.fields(Recipe))}
    return {name: value for name, value in vars(asked).items() if name in known}


def stages_named(text: str) -> list[dict[str, Any]]:
    """``128k:400,256k:600:factors.json`` as values of ``Stage``. Raises ``TrainingError`` for another form."""
    found = []
    for part in text.split(","):
        length, _, rest = part.strip().partition(":")
        steps, _, factors = rest.partition(":")
        if not length or not (steps.isascii() and steps.isdecimal()):
            raise TrainingError(f"Expected --stage LENGTH:STEPS[:FACTORS],..., such as 128k:400, found {part!r}.")
        found.append({"length": parse_length(length), "steps": int(steps)} | ({"factors": factors} if factors else {}))
    return found


def source_named(text: str) -> dict[str, Any]:
    """``books.jsonl*2`` as values of ``DataSource``: a number after the last star is the weight."""
    source, star, weight = text.rpartition("*")
    if not star:
        return {"source": text}
    try:
        return {"source": source, "weight": float(weight)}
    except ValueError:  # a star of its own
        return {"source": text}


def field_docstrings(kind: type) -> Mapping[str, str]:
    """Name of each field of a dataclass to the docstring below it, on one line."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef))
    found = {}
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                found[name] = " ".join(text.replace("``", "").split())
    return found


def _reads(expected: Any) -> dict[str, Any]:
    """How argparse reads a field of the type ``expected``."""
    if get_origin(expected) in (Union, types.UnionType):  # of a type and None
        (inner,) = (found for found in get_args(expected) if found is not types.NoneType)
        read = _reads(inner)
        return {**read, "type": _or_none(read.get("type", str))}
    if get_origin(expected) is Literal:
        return {"choices": get_args(expected)}
    if get_origin(expected) is tuple:
        return {"nargs": len(get_args(expected)), "type": get_args(expected)[0], "metavar": "NUMBER"}
    return _SIMPLE[expected]


def _or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def converted(text: str) -> Any:
        return None if text == NONE else convert(text)

    converted.__name__ = convert.__name__  # argparse calls it so in its message
    return converted


def _length(text: str) -> int:
    try:
        return parse_length(text)
    except LongRopeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_SIMPLE: Mapping[Any, dict[str, Any]] = {
    int: {"type": int, "metavar": "NUMBER"},
    Tokens: {"type": _length, "metavar": "LENGTH"},
    float: {"type": float, "metavar": "NUMBER"},
    bool: {"action": argparse.BooleanOptionalAction},
    str: {"metavar": "NAME"},
    Path: {"type": Path, "metavar": "PATH"},
}


def _shown(default: Any) -> str:
    if default is None:
        return NONE
    return " ".join(map(str, default)) if isinstance(default, tuple) else f"{default}"
