"""What an evaluation measured: one record for each (task, method, length, group, sample), kept in a journal on disk.

The journal is ``records.jsonl`` in the output folder: a record is appended and on disk before the next one is measured,
so that an evaluation that was killed goes on where it was. A last line that was cut off is dropped on opening.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from longrope_vllm.errors import EvaluationError
from longrope_vllm.lengths import format_length


class Key(NamedTuple):
    """What a record is of; there is one record for each."""

    task: str
    """``ppl``, ``passkey``, ``needle``, ``ruler``, ``longppl`` or ``short``."""
    method: str
    """Label of what is compared: ``none``, ``yarn``, the name of a factors file, or of a server."""
    length: int
    """Tokens of the sequence: the prompt and the room for its answer. 0 for a benchmark of short questions."""
    group: str
    """What is averaged on its own: the kind of text, the RULER task, the benchmark."""
    sample: str
    """Which of them: a document, a depth and a trial, an index."""

    @property
    def title(self) -> str:
        """For a person: ``ppl yarn 16k bible 2``."""
        length = format_length(self.length) if self.length else ""
        return " ".join(part for part in (self.task, self.method, length, self.group, self.sample) if part)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One measured sample."""

    key: Key
    values: Mapping[str, float]
    """Figures by name. ``ppl``: loss (mean, nats), tokens, last_loss, last_tokens. Tasks with answers: score and depth,
    from 0 to 1. ``longppl``: loss, tokens (of the key tokens alone; no tokens, no meaning of the loss). ``short``: each
    metric by its name."""
    curve: tuple[float, ...] = ()
    """Mean loss of each run of tokens along the document, for ``ppl``."""
    expected: str = ""
    answer: str = ""
    tier: int | None = None
    """Longest sequence of the tier that served it, where that is known."""
    seconds: float = 0.0
    notes: Mapping[str, str] = field(default_factory=dict)
    """What else a reader wants to know, such as who chose the tokens that count."""


_FIGURES = {
    "ppl": ("loss", "tokens"),
    "longppl": ("loss", "tokens"),
    "passkey": ("score",),
    "needle": ("score", "depth"),
    "ruler": ("score",),
}
"""What no record of a task is without."""


class Journal:
    """The records of one output folder, on disk as they come."""

    def __init__(self, path: Path, records: dict[Key, Record]) -> None:
        self.path = path
        self.records = records

    @classmethod
    def open(cls, path: Path) -> Self:
        """The journal at ``path``, empty when there is none. Raises ``EvaluationError`` for a file of another kind."""
        if not path.exists():
            return cls(path, {})
        content = path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        if torn:
            with path.open("r+b") as file:
                file.truncate(len(content) - len(torn))
        records = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            if not line:
                continue
            try:
                record = _from_json(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise EvaluationError(
                    f"Expected a record of an evaluation, found {error!r} in line {number} of {path}: choose another "
                    "folder, or remove that line."
                ) from None
            records[record.key] = record
        return cls(path, records)

    def __contains__(self, key: Key) -> bool:
        return key in self.records

    def add(self, records: Iterable[Record]) -> None:
        """Append ``records``; they are on disk when this returns. Raises ``EvaluationError`` when the disk is full."""
        found = list(records)
        lines = b"".join(json.dumps(_to_json(record), allow_nan=False).encode() + b"\n" for record in found)
        try:
            with self.path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise EvaluationError(
                f"Expected to write to {self.path}, found: {error.strerror}. What was measured before is kept: make "
                "room and run the same command again."
            ) from error
        self.records.update({record.key: record for record in found})


def _to_json(record: Record) -> dict[str, Any]:
    stated = {
        name: value for name, value in asdict(record).items() if name != "key" and value not in ((), "", {}, None)
    }
    return {**record.key._asdict(), **stated}


def _from_json(stated: dict[str, Any]) -> Record:
    key = Key(**{name: stated.pop(name) for name in Key._fields})
    for name in _FIGURES.get(key.task, ()):
        float(stated["values"][name])
    return Record(key=key, **{**stated, "curve": tuple(stated.get("curve", ()))})
