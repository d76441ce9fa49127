"""What one folder of results was measured with: written beside the journal, and held to when it is continued.

More lengths, samples, tasks and methods may be added to a folder at any time. What would make its records incomparable
may not change: the tokenizer, the documents, the prompts, and what a method's name stands for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.documents import Document

FILE = "evaluation.json"
_FORMAT = 1
_SAMPLED = 1 << 20  # bytes at either end of a file of weights that are hashed: whole files of 100 GB would take minutes


@dataclass(frozen=True, kw_only=True)
class DocumentId:
    """A document without its tokens."""

    group: str
    index: int
    source: str
    """The text it was cut from, and where."""
    tokens: int
    sha256: str
    """Of that text."""

    def __str__(self) -> str:
        return f"{self.group} {self.index}: {self.source}, {self.tokens:,} tokens, sha256 {self.sha256}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of one folder."""

    tokenizer: str
    """Hash of the vocabulary."""
    chat: bool
    protocol: str
    seed: int
    depths: tuple[float, ...]
    documents: tuple[DocumentId, ...]
    methods: Mapping[str, str]
    """Label to what it stands for: model and factors."""
    evaluator: str = ""
    """Which of them chose the key tokens of LongPPL; empty before that task."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """What questions are made of, by what it is for: files and haystacks, with their hashes."""
    commands: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    """On which it was measured last; a server may run on another."""
    created: str = ""
    """The day of the last measurement."""


def document_ids(documents: Sequence[Document]) -> tuple[DocumentId, ...]:
    """``documents`` without their tokens."""
    return tuple(
        DocumentId(
            group=document.group,
            index=document.index,
            source=document.source,
            tokens=len(document.tokens),
            sha256=document.sha256,
        )
        for document in documents
    )


def read_settings(folder: Path) -> Settings | None:
    """What ``folder`` was measured with, or None for a new one. Raises ``EvaluationError`` for another file."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        stated: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stated.pop("format") != _FORMAT:
            raise ValueError("another format")
        listed: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in stated.items()}
        return Settings(**{**listed, "documents": tuple(DocumentId(**found) for found in listed["documents"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"Expected the settings of an evaluation in {path}, found something else ({error}): choose another folder."
        ) from None


def write_settings(folder: Path, settings: Settings) -> None:
    """Replace the settings in ``folder``. Raises ``OSError``."""
    write_atomically(folder / FILE, json.dumps({"format": _FORMAT, **asdict(settings)}, indent=2) + "\n")


def joined(before: Settings, now: Settings, folder: Path) -> Settings:
    """Settings of a folder that was measured with ``before`` and goes on with ``now``.

    Raises ``EvaluationError`` where the records of both could not be compared.
    """
    for name in ("tokenizer", "chat", "protocol", "seed", "depths"):
        _same(name, getattr(before, name), getattr(now, name), folder)
    _same("evaluator", before.evaluator or now.evaluator, now.evaluator or before.evaluator, folder)
    for kind, earlier, later in (("method", before.methods, now.methods), ("source of", before.sources, now.sources)):
        for name in earlier.keys() & later.keys():
            _same(f"{kind} {name!r}", earlier[name], later[name], folder)
    documents = {(document.group, document.index): document for document in before.documents}
    for document in now.documents:
        found = documents.setdefault((document.group, document.index), document)
        _same(f"document {document.group} {document.index}", found, document, folder)
    return replace(
        now,
        evaluator=before.evaluator or now.evaluator,
        documents=tuple(documents.values()),
        methods={**before.methods, **now.methods},
        sources={**before.sources, **now.sources},
        commands=tuple(dict.fromkeys((*before.commands, *now.commands))),
    )


def _same(name: str, before: Any, now: Any, folder: Path) -> None:
    if before != now:
        raise EvaluationError(
            f"Expected the {name} that {folder} was measured with ({before}), found another ({now}): give the same, or "
            "another --out."
        )


def vocabulary_hash(tokenizer: Any) -> str:
    """Hash of which text has which id."""
    entries = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def checkpoint_identity(folder: Path) -> str:
    """A checkpoint by its name, its configuration, and the size and both ends of each file of weights."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin"))):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            digest.update(file.read(_SAMPLED))
            file.seek(max(0, path.stat().st_size - _SAMPLED))
            digest.update(file.read(_SAMPLED))
    return f"{folder.resolve().name} {digest.hexdigest()[:16]}"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of all files under a folder with their names."""
    digest = hashlib.sha256()
    for file in sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
