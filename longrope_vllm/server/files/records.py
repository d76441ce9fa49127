"""What is known of each file: one row of a SQLite table, in WAL mode, for any number of processes.

Rows are written under the store's lock only. An expired file is in no answer, whether it was swept or not. Ids grow
with the time of upload, so a list is in the order of ids and can go on after a file that was deleted meanwhile.
"""

import sqlite3
import threading
import weakref
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from longrope_vllm.server.files.text import Format

Order = Literal["asc", "desc"]
Purpose = Literal["assistants", "user_data"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    filename TEXT NOT NULL,
    content_type TEXT NOT NULL,
    purpose TEXT NOT NULL,
    format TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    text_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    tokens INTEGER,
    tokenizer TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_owner ON files (owner, id);
"""
_BUSY_LIMIT_S = 30.0
_ALIVE = "(expires_at IS NULL OR expires_at > ?)"


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file. The fields are the columns, in their order."""

    id: str
    owner: str
    filename: str
    content_type: str
    purpose: Purpose
    format: Format
    bytes: int
    """Of the file as it was uploaded."""
    text_bytes: int
    """Of its text, in UTF-8; it takes no room of its own for a format that is text already."""
    created_at: int
    """Seconds since 1970, as its upload began."""
    expires_at: int | None
    tokens: int | None
    """Of the document in a prompt; None where that was not counted."""
    tokenizer: str | None
    """The tokenizer that counted them."""

    @property
    def stored_bytes(self) -> int:
        """What it takes of its owner's quota."""
        return self.bytes + (0 if self.format == "plain" else self.text_bytes)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one owner has stored."""

    files: int
    bytes: int


class Records:
    """The table at ``path``; its methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._guard = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=_BUSY_LIMIT_S, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_SCHEMA)
        self.close = weakref.finalize(self, self._connection.close)
        """Called, closes the connection; without that it is closed with this object."""

    def insert(self, record: FileRecord) -> None:
        """Add a row; it is on disk when this returns."""
        self._run(f"INSERT INTO files VALUES ({', '.join('?' * len(fields(FileRecord)))})", *astuple(record))

    def find(self, file_id: str, *, owner: str, now: float) -> FileRecord | None:
        """The owner's file of that id."""
        found = self._records(f"id = ? AND owner = ? AND {_ALIVE}", file_id, owner, now)
        return found[0] if found else None

    def page(
        self, owner: str, *, now: float, purpose: Purpose | None, after: str | None, order: Order, limit: int
    ) -> list[FileRecord]:
        """The owner's files, newest first with ``desc``, from the one ``after`` on."""
        clauses = f"owner = ? AND {_ALIVE}"
        values: list[object] = [owner, now]
        if purpose is not None:
            clauses, values = f"{clauses} AND purpose = ?", [*values, purpose]
        if after is not None:
            clauses, values = f"{clauses} AND id {'<' if order == 'desc' else '>'} ?", [*values, after]
        return self._records(f"{clauses} ORDER BY id {order} LIMIT ?", *values, limit)

    def usage(self, owner: str) -> Usage:
        """Files and bytes of ``owner``."""
        stored = "bytes + CASE format WHEN 'plain' THEN 0 ELSE text_bytes END"
        ((files, size),) = self._run(f"SELECT COUNT(*), COALESCE(SUM({stored}), 0) FROM files WHERE owner = ?", owner)
        return Usage(files=files, bytes=size)

    def ids(self) -> set[str]:
        """Of all files, expired ones too."""
        return {row[0] for row in self._run("SELECT id FROM files")}

    def expired(self, now: float) -> list[str]:
        """Ids of the files whose time is over."""
        return [row[0] for row in self._run("SELECT id FROM files WHERE expires_at <= ?", now)]

    def delete(self, file_ids: Sequence[str]) -> None:
        """Remove rows."""
        for file_id in file_ids:
            self._run("DELETE FROM files WHERE id = ?", file_id)

    def set_tokens(self, file_id: str, *, tokens: int | None, tokenizer: str) -> None:
        """Note what another tokenizer counted."""
        self._run("UPDATE files SET tokens = ?, tokenizer = ? WHERE id = ?", tokens, tokenizer, file_id)

    def _records(self, where: str, *values: object) -> list[FileRecord]:
        names = [column.name for column in fields(FileRecord)]
        rows = self._run(f"SELECT {', '.join(names)} FROM files WHERE {where}", *values)
        return [FileRecord(**dict(zip(names, row, strict=True))) for row in rows]

    def _run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._guard:
            return self._connection.execute(statement, values).fetchall()
