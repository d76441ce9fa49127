"""Files in a directory, their records in SQLite; any number of processes may use one directory.

    lock            held for a moment by whoever adds, removes or sweeps
    records.sqlite
    incoming/ID/    an upload on its way; its writer holds a lock on the folder until it is kept or dropped
    stored/ID/      ``original``, and ``text`` where that is not the same

An upload is written and synced in ``incoming``; then, under the lock, its folder is moved and its record inserted.
Deleting removes the record first. So a file is visible whole or not at all, and what a killed process left is known:
unlocked folders in ``incoming``, folders in ``stored`` without a record, records without a folder. The next start
clears them and touches nothing of a living process.
"""

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files.disk_full import answered_507
from longrope_vllm.server.files.form import Upload
from longrope_vllm.server.files.incoming import Incoming, is_written
from longrope_vllm.server.files.quota import Quota, too_large
from longrope_vllm.server.files.records import FileRecord, Order, Purpose, Records
from longrope_vllm.server.files.settings import FileSettings
from longrope_vllm.server.files.text import Format


class FileStore:
    """The files under ``settings.directory``. Its methods block and may be called from any thread.

    ``clock`` tells the seconds since 1970. Raises ``OSError`` when the directory cannot be used.
    """

    def __init__(self, settings: FileSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        root = settings.directory
        self._lock, self._incoming, self._stored = root / "lock", root / "incoming", root / "stored"
        for folder in (root, self._incoming, self._stored):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            self._records = Records(root / "records.sqlite")
            self._quota = Quota(settings, self._records, self._incoming)
            self._clear_remains()

    def close(self) -> None:
        """Let go of the database."""
        self._records.close()

    # -- adding

    def begin(self, owner: str, *, least: int = 0, most: int | None = None) -> Incoming:
        """Room for an upload of ``owner``, of ``least`` to ``most`` bytes (None: unknown), which it has until it ends.

        Raises ``ApiError`` where there is none.
        """
        self.sweep()
        with answered_507(), self._locked():
            room, over_limit = self._quota.room(owner, least=least, most=most)
            incoming = self._make_incoming(room, over_limit)
            try:
                incoming.reserve(owner, room)
            except BaseException:
                incoming.drop()
                raise
        return incoming

    def scratch(self) -> Incoming:
        """Room for a document that is not kept."""
        with answered_507(), self._locked():
            return self._make_incoming(self._settings.file_bytes, too_large(self._settings))

    def keep(
        self,
        incoming: Incoming,
        upload: Upload,
        *,
        owner: str,
        format: Format,
        tokens: int | None,
        tokenizer: str | None,
    ) -> FileRecord:
        """Make ``incoming`` a file of ``owner``: from here on it is there, also after a crash. Raises ``ApiError``."""
        created = incoming.created_at
        expires_s = upload.expires_s or self._settings.expire_s
        with answered_507():
            incoming.sync()
            record = FileRecord(
                id=incoming.id,
                owner=owner,
                filename=upload.filename,
                content_type=upload.content_type,
                purpose=upload.purpose,
                format=format,
                bytes=incoming.original.stat().st_size,
                text_bytes=(incoming.original if format == "plain" else incoming.text).stat().st_size,
                created_at=created,
                expires_at=None if expires_s is None else created + expires_s,
                tokens=tokens,
                tokenizer=tokenizer,
            )
            with self._locked():
                self._quota.check(record)
                self._commit(incoming, record)
        return record

    def _commit(self, incoming: Incoming, record: FileRecord) -> None:
        folder = self._stored / record.id
        incoming.release()
        incoming.folder.rename(folder)
        try:
            _sync_folder(self._stored)
            self._records.insert(record)
        except BaseException:
            shutil.rmtree(folder)
            raise

    def _make_incoming(self, limit: int, over_limit: ApiError) -> Incoming:
        created = self._clock()
        file_id = f"file-{int(created * 1000):012x}{secrets.token_hex(10)}"
        return Incoming(self._incoming / file_id, created_at=int(created), limit=limit, over_limit=over_limit)

    # -- asking

    def find(self, file_id: str, *, owner: str) -> FileRecord:
        """The owner's file of that id. Raises ``ApiError`` 404, for another's file as well."""
        found = self._records.find(file_id, owner=owner, now=self._clock())
        if found is None:
            raise ApiError(
                f"Expected the id of one of your files, found {file_id!r}: it was never yours, was deleted or expired.",
                status=404,
                code="file_not_found",
                param="file_id",
            )
        return found

    def page(
        self, owner: str, *, purpose: Purpose | None, after: str | None, order: Order, limit: int
    ) -> list[FileRecord]:
        """The owner's files from the one ``after`` on."""
        return self._records.page(owner, now=self._clock(), purpose=purpose, after=after, order=order, limit=limit)

    def original(self, record: FileRecord) -> Path:
        """The bytes as they were uploaded."""
        return self._stored / record.id / "original"

    def text(self, record: FileRecord) -> Path:
        """The text in UTF-8."""
        return self.original(record) if record.format == "plain" else self._stored / record.id / "text"

    def set_tokens(self, record: FileRecord, *, tokens: int | None, tokenizer: str) -> None:
        """Note what another tokenizer counted."""
        self._records.set_tokens(record.id, tokens=tokens, tokenizer=tokenizer)

    # -- removing

    def delete(self, file_id: str, *, owner: str) -> None:
        """Remove the owner's file. Raises ``ApiError`` 404."""
        with self._locked():
            self._remove([self.find(file_id, owner=owner).id])

    def sweep(self) -> None:
        """Remove what has expired."""
        if self._records.expired(self._clock()):
            with self._locked():
                self._remove(self._records.expired(self._clock()))

    def _remove(self, file_ids: list[str]) -> None:
        self._records.delete(file_ids)
        for file_id in file_ids:
            shutil.rmtree(self._stored / file_id, ignore_errors=True)

    def _clear_remains(self) -> None:
        for folder in self._incoming.iterdir():
            if not is_written(folder):
                shutil.rmtree(folder)
        known, there = self._records.ids(), {folder.name for folder in self._stored.iterdir()}
        for orphan in there - known:
            shutil.rmtree(self._stored / orphan)
        self._remove([*(known - there), *self._records.expired(self._clock())])

    # -- the lock

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time, among threads and processes; the kernel lets go for a process that dies."""
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
