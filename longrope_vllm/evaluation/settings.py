"""What one folder of results was measured with: written beside the journal, and held to when it is continued.

More lengths, tasks and methods may be added to a folder at any time. What would make its records incomparable may not
change: the tokenizer, the documents, the prompts, and what a method's name stands for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.documents import Document

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


def settle(path: Path, asked: Settings) -> Settings:
    """``asked`` together with what stands at ``path``, written there. Raises ``EvaluationError`` where they differ."""
    if path.exists():
        asked = _joined(_read(path), asked, path)
    write_atomically(path, json.dumps({"format": _FORMAT, **asdict(asked)}, indent=2) + "\n")
    return asked


def _read(path: Path) -> Settings:
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


def _joined(before: Settings, now: Settings, path: Path) -> Settings:
    for item in fields(Settings):
        if item.name in ("methods", "commands", "versions", "machine", "created") or (
            item.name == "documents" and not (before.documents and now.documents)
        ):
            continue
        _same(item.name, getattr(before, item.name), getattr(now, item.name), path)
    for label, stands_for in now.methods.items():
        _same(f"method {label!r}", before.methods.get(label, stands_for), stands_for, path)
    return replace(
        now,
        documents=now.documents or before.documents,
        methods={**before.methods, **now.methods},
        commands=tuple(dict.fromkeys((*before.commands, *now.commands))),
    )


def _same(name: str, before: Any, now: Any, path: Path) -> None:
    if before == now:
        return
    if isinstance(before, tuple):
        before, now = (
            next((part for part in some if part not in others), f"{len(some)} of them")
            for some, others in ((before, now), (now, before))
        )
    raise EvaluationError(
        f"Expected the {name} that {path.parent} was measured with ({before}), found another ({now}): give "
        "the same, or another --out."
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
