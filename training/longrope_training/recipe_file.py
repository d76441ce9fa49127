"""From what a user writes, in a TOML file, on the command line or both, to a ``Recipe``.

The fields of ``Recipe``, ``Stage`` and ``DataSource``, their types and their docstrings are the only list there is:
keys, checks, options and their help come from them. Layers, the last wins: preset, file, command line.
"""

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from longrope_training.presets import PRESETS
from longrope_training.recipe import DataSource, Recipe, Tokens
from longrope_vllm.errors import LongRopeError, TrainingError
from longrope_vllm.lengths import parse_length

PRESET = "preset"
"""Key of a preset, in a file and among values."""

TABLES = {"stage": "stages"}
"""Key in a file to the field, where they differ: a TOML table is one of them."""

NONE = "none"
"""How a user writes None, for which TOML has no word."""

COMMAND_LINE = "the command line"


def read_recipe(path: Path, changed: Mapping[str, Any]) -> Recipe:
    """The recipe in the TOML file ``path``, with what the command line ``changed``.

    Its keys are the fields of ``Recipe``, with ``[[stage]]`` and ``[[data]]`` tables and ``preset``; its relative paths
    start at its folder. Raises ``TrainingError`` with one sentence that names the key.
    """
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"Expected a recipe, found no file at {path}: check the path.") from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"Expected a recipe in TOML in {path}, found: {error}.") from None
    wrong = {field: key for key, field in TABLES.items() if field in stated}
    if wrong:
        field, key = next(iter(wrong.items()))
        raise TrainingError(f"Expected tables [[{key}]] in {path}, found {field!r}: rename them.")
    named = {TABLES.get(key, key): value for key, value in stated.items()}
    below = _checked(named, where=str(path), folder=path.absolute().parent)
    above = _checked(changed, where=COMMAND_LINE, folder=None)
    return recipe_of({**below, **above}, where=str(path))


def recipe_of(values: Mapping[str, Any], *, where: str = COMMAND_LINE) -> Recipe:
    """The recipe of ``values`` by field, laid over the preset that they may name.

    A number of tokens may be text such as ``128k``, ``none`` stands for None, and stages and data may be mappings.
    Raises ``TrainingError``, with ``where`` they were found.
    """
    checked = _checked(values, where=where, folder=None)
    preset = checked.pop(PRESET, None)
    below = {} if preset is None else _checked(PRESETS[preset], where=f"the preset {preset}", folder=None)
    found = {**below, **checked}
    _all_there(Recipe, found, where=where)
    try:
        return Recipe(**found)
    except TrainingError as error:
        raise TrainingError(f"{error} (in {where})") from None


def _checked(values: Mapping[str, Any], *, where: str, folder: Path | None) -> dict[str, Any]:
    """``values`` of a recipe in the types of its fields; relative paths start at ``folder``."""
    _known(Recipe, values, where=where, also=(PRESET,))
    preset = values.get(PRESET)
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        raise TrainingError(f"Expected {PRESET} out of {', '.join(PRESETS)}, found {preset!r} in {where}.")
    hints = get_type_hints(Recipe, include_extras=True)
    at = _Place(where=where, folder=folder)
    return {
        name: value if name == PRESET else at.value(value, hints[name], _key(name)) for name, value in values.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """Where values were found, for what is said of them, and the folder that relative paths start at."""

    where: str
    folder: Path | None

    def value(self, value: Any, expected: Any, key: str) -> Any:
        """``value`` in the type ``expected``, or ``TrainingError``."""
        if dataclasses.is_dataclass(expected):
            return self.table(value, expected, key)
        if get_origin(expected) in (Union, types.UnionType):  # of a type and None
            (inner,) = (found for found in get_args(expected) if found is not types.NoneType)
            return None if value is None or value == NONE else self.value(value, inner, key)
        if get_origin(expected) is tuple:
            return self.several(value, get_args(expected), key)
        if get_origin(expected) is Literal:
            return value if value in get_args(expected) else self.refuse(value, _or(get_args(expected)), key)
        said, convert = _SIMPLE[expected]
        try:
            found = convert(value)
        except LongRopeError as error:
            raise TrainingError(f"{error} (as {key} in {self.where})") from None
        if found is None:
            self.refuse(value, said, key)
        return self.path(found) if isinstance(found, Path) else found

    def several(self, value: Any, kinds: tuple[Any, ...], key: str) -> tuple[Any, ...]:
        """A tuple of one kind of any length, or of the ``kinds`` one by one."""
        if not isinstance(value, list | tuple):
            tables = dataclasses.is_dataclass(kinds[0])
            self.refuse(value, f"tables [[{key}]]" if tables else f"{len(kinds)} numbers", key)
        if kinds[-1] is Ellipsis:
            return tuple(self.value(one, kinds[0], key) for one in value)
        if len(value) != len(kinds):
            self.refuse(value, f"{len(kinds)} numbers", key)
        return tuple(self.value(one, kind, key) for one, kind in zip(value, kinds, strict=True))

    def table(self, value: Any, kind: Any, key: str) -> Any:
        """A mapping as the dataclass ``kind``."""
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            self.refuse(value, f"a table [[{key}]]", key)
        where = f"{key} in {self.where}"
        _known(kind, value, where=where)
        _all_there(kind, value, where=where)
        hints = get_type_hints(kind, include_extras=True)
        found = {name: self.value(one, hints[name], f"{key}.{name}") for name, one in value.items()}
        if kind is DataSource:
            found["source"] = self.source(found["source"])
        try:
            return kind(**found)
        except TrainingError as error:
            raise TrainingError(f"{error} (in {self.where})") from None

    def path(self, found: Path) -> Path:
        """``found``, from the folder where it is relative."""
        return found if self.folder is None else self.folder / found

    def source(self, source: str) -> str:
        """``PATH#FIELD`` from the folder where there is such a path; other sources are names."""
        place, mark, field = source.partition("#")
        there = place and self.folder is not None and (self.folder / place).exists()
        return f"{self.path(Path(place))}{mark}{field}" if there else source

    def refuse(self, value: Any, expected: str, key: str) -> Any:
        """Raise ``TrainingError``."""
        raise TrainingError(f"Expected {expected} as {key}, found {value!r} in {self.where}.")


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _tokens(value: Any) -> int | None:
    return parse_length(value) if isinstance(value, str) else _whole(value)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _path(value: Any) -> Path | None:
    return Path(value).expanduser() if isinstance(value, str | Path) and str(value) else None


def _switch(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


_SIMPLE: Mapping[Any, tuple[str, Callable[[Any], Any]]] = {
    int: ("a whole number", _whole),
    Tokens: ("a whole number or a length such as 128k", _tokens),
    float: ("a number", _number),
    bool: ("true or false", _switch),
    str: ("text", _text),
    Path: ("a path", _path),
}
"""Type of a field to how a message calls it, and to what gives None for a value of another type."""


def _known(kind: Any, values: Mapping[str, Any], *, where: str, also: tuple[str, ...] = ()) -> None:
    """Raise ``TrainingError`` for a key that is no field of ``kind``."""
    known = [*also, *(_key(field.name) for field in dataclasses.fields(kind))]
    for name in values:
        if _key(name) not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise TrainingError(
                f"Expected a known key, found {name!r} in {where}: {meant}Known are {', '.join(sorted(known))}."
            )


def _all_there(kind: Any, values: Mapping[str, Any], *, where: str) -> None:
    """Raise ``TrainingError`` for a field of ``kind`` that has no default and no value."""
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in values:
            expected = get_type_hints(kind, include_extras=True)[field.name]
            raise TrainingError(f"Expected {_key(field.name)} ({_said(expected)}), found none in {where}.")


def _said(expected: Any) -> str:
    """How a message calls the type of a field."""
    if get_origin(expected) is tuple:
        return "one or more"
    return _SIMPLE[expected][0]


def _key(name: str) -> str:
    """A field as a file calls it."""
    return next((key for key, field in TABLES.items() if field == name), name)


def _or(choices: tuple[Any, ...]) -> str:
    return " or ".join((", ".join(map(str, choices[:-1])), str(choices[-1])))
