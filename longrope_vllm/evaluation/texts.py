"""Where the text of an evaluation comes from: what this machine carries, files, and sets streamed from a hub.

A source is named in one word, as ``--documents`` takes it:

    stdlib              source of Python's standard library, module after module
    pydoc               the language reference that Python carries: English prose with examples
    bible               the King James text, 1.1M tokens, where Debian's package bible-kjv is installed
    synthetic[:SEED]    seeded sentences without meaning, as long as asked for: for tests of lengths, not of quality
    PATH                .txt, .md or any other text: one text; .jsonl or .parquet: one a row; a folder: its files
    hub:NAME[:SPLIT]    a dataset of parquet files, streamed; SPLIT is ``test`` unless named

``PATH#FIELD`` and ``hub:NAME#FIELD`` name the column that holds the text, ``text`` otherwise.
"""

import json
import platform
import random
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from longrope_vllm.errors import EvaluationError
from longrope_vllm.extras import require

_FIELD = "text"


@dataclass(frozen=True, kw_only=True)
class Text:
    """One text, as it was found."""

    name: str
    """Where it comes from, for the report."""
    content: str


def read_texts(source: str, *, characters: int) -> Iterator[Text]:
    """The texts of ``source`` in their order; a made one has at least ``characters``.

    Raises ``EvaluationError`` for a source that is not there or holds no text.
    """
    kind, _, argument = source.partition(":")
    if kind in _MADE:
        return _MADE[kind](argument, characters)
    place, _, field = source.partition("#")
    if kind == "hub":
        return _hub(place.removeprefix("hub:"), field or _FIELD)
    return _path(Path(place), field or _FIELD)


def default_group(source: str) -> str:
    """The name under which the texts of ``source`` are averaged, where the user gives none."""
    place = source.partition("#")[0]
    kind, _, argument = place.partition(":")
    if kind in _MADE:
        return kind
    return argument.partition(":")[0].rpartition("/")[2] if kind == "hub" else Path(place).stem


def _stdlib(argument: str, characters: int) -> Iterator[Text]:
    _no_argument("stdlib", argument)
    folder = Path(sysconfig.get_path("stdlib"))
    modules = sorted(folder.glob("*.py"))
    content = "\n\n".join(module.read_text(encoding="utf-8") for module in modules)
    yield Text(name=f"the {len(modules)} modules of Python {platform.python_version()}", content=content)


def _pydoc(argument: str, characters: int) -> Iterator[Text]:
    from longrope_vllm.demo.document import reference_text

    _no_argument("pydoc", argument)
    yield Text(name=f"the language reference of Python {platform.python_version()}", content=reference_text())


def _bible(argument: str, characters: int) -> Iterator[Text]:
    _no_argument("bible", argument)
    if shutil.which("bible") is None:
        raise EvaluationError(
            "Expected the program bible for the documents named bible, found none: install Debian's package "
            "bible-kjv, or name other documents."
        )
    printed = subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], capture_output=True, text=True, check=False)
    if printed.returncode != 0 or not printed.stdout:
        raise EvaluationError(f"Expected the King James text from the program bible, found: {printed.stderr.strip()}")
    yield Text(name="the King James text (Debian's bible-kjv)", content=printed.stdout)


def _synthetic(argument: str, characters: int) -> Iterator[Text]:
    if argument and not argument.isdecimal():
        raise EvaluationError(f"Expected synthetic or synthetic:SEED, found the seed {argument!r}: give a number.")
    number = 0
    while True:
        yield Text(
            name=f"synthetic text {number} of seed {argument or 0}",
            content=synthetic_text(characters, random.Random(f"{argument or 0}/{number}")),
        )
        number += 1


def synthetic_text(characters: int, draw: random.Random) -> str:
    """Sentences of at least ``characters`` from 2,000 made-up words, the frequent ones most often (Zipf's law)."""
    syllables = [first + second for first in "bdfgklmnprstvw" for second in ("a", "e", "i", "o", "u", "en", "or", "al")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(2000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    sentences: list[str] = []
    length = 0
    while length < characters:
        sentence = " ".join(draw.choices(words, weights, k=draw.randint(4, 18))).capitalize() + "."
        sentences.append(sentence)
        length += len(sentence) + 1
    return " ".join(sentences)


_MADE: dict[str, Callable[[str, int], Iterator[Text]]] = {
    "stdlib": _stdlib,
    "pydoc": _pydoc,
    "bible": _bible,
    "synthetic": _synthetic,
}


def _no_argument(kind: str, argument: str) -> None:
    if argument:
        raise EvaluationError(f"Expected {kind} alone, found {kind}:{argument}: only synthetic takes a seed.")


def _path(path: Path, field: str) -> Iterator[Text]:
    if path.is_dir():
        files = sorted(found for found in path.rglob("*") if found.is_file() and not found.name.startswith("."))
        if not files:
            raise EvaluationError(f"Expected files in the folder of documents {path}, found none.")
        for file in files:
            yield from _path(file, field)
        return
    if not path.is_file():
        raise EvaluationError(
            f"Expected documents at {path}, found no file: give a path, hub:NAME, or one of {', '.join(_MADE)}."
        )
    if path.suffix == ".jsonl":
        yield from _jsonl(path, field)
    elif path.suffix == ".parquet":
        yield from _parquet(path, field)
    else:
        try:
            yield Text(name=path.name, content=path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise EvaluationError(
                f"Expected text in UTF-8, found other bytes at {error.start} of {path}: convert or remove it."
            ) from None


def _jsonl(path: Path, field: str) -> Iterator[Text]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)[field]
            except (ValueError, KeyError, TypeError):
                content = None
            yield _row(content, field=field, where=f"line {number} of {path}", name=f"{path.name} line {number}")


def _parquet(path: Path, field: str) -> Iterator[Text]:
    parquet = require("pyarrow.parquet", "eval")
    arrow = require("pyarrow", "eval")
    try:
        file = parquet.ParquetFile(path)
    except arrow.ArrowInvalid as error:
        raise EvaluationError(f"Expected a parquet file, found another in {path}: {error}") from None
    if field not in file.schema_arrow.names:
        raise EvaluationError(
            f"Expected a column {field!r} in {path}, found {', '.join(file.schema_arrow.names)}: name it as "
            "PATH#COLUMN."
        )
    number = 0
    for batch in file.iter_batches(batch_size=16, columns=[field]):
        for content in batch.column(0).to_pylist():
            yield _row(content, field=field, where=f"row {number} of {path}", name=f"{path.name} row {number}")
            number += 1


def _hub(place: str, field: str) -> Iterator[Text]:
    name, _, split = place.partition(":")
    datasets = require("datasets", "eval")
    try:
        for number, row in enumerate(datasets.load_dataset(name, split=split or "test", streaming=True)):
            yield _row(row.get(field), field=field, where=f"row {number} of {place}", name=f"{place} row {number}")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a closed client of the hub
        raise EvaluationError(
            f"Expected the dataset {name} with the split {split or 'test'} on the hub, found: {error}. Check the name "
            "and the network, or give a local file."
        ) from None


def _row(content: object, *, field: str, where: str, name: str) -> Text:
    if isinstance(content, str) and not _encodable(content):
        raise EvaluationError(f"Expected text that is valid Unicode, found half a character in {where}: correct it.")
    if not isinstance(content, str):
        raise EvaluationError(
            f"Expected text in the field {field!r}, found {type(content).__name__} in {where}: name the field as "
            "PATH#FIELD, or correct the file."
        )
    return Text(name=name, content=content)


def _encodable(text: str) -> bool:
    """False for a lone surrogate, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
