"""One upload on its way: a folder that its writer holds a lock on, until it is moved or dropped.

original    the bytes so far
text        what was made of them
room        owner and bytes that are kept free for it, where it is to be stored
"""

import fcntl
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files.disk_full import answered_507
from longrope_vllm.server.files.text import Format, read_text

_ROOM = "room"


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Bytes kept free for an upload of ``owner``."""

    owner: str
    bytes: int


class Incoming:
    """A context: left, it drops what was not kept.

    ``limit`` is the number of bytes that ``write`` takes before it raises ``over_limit``. Made under the store's lock,
    so that nobody meets the folder before it is locked.
    """

    def __init__(self, folder: Path, *, created_at: int, limit: int, over_limit: ApiError) -> None:
        self.folder = folder
        self.id = folder.name
        self.original = folder / "original"
        self.text = folder / "text"
        self.created_at = created_at
        self._left = limit
        self._over_limit = over_limit
        folder.mkdir(mode=0o700)
        self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._file = os.fdopen(os.open(self.original, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except OSError:
            os.close(self._lock)
            folder.rmdir()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()

    def drop(self) -> None:
        """Remove what was not kept."""
        # A full disk refuses the buffered rest once more; the file goes away all the same.
        with suppress(OSError):
            self._file.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # not there any more if it was kept
        os.close(self._lock)

    def reserve(self, owner: str, size: int) -> None:
        """Let ``reservation_in`` tell of it. Raises ``OSError``."""
        (self.folder / _ROOM).write_text(f"{size} {owner}")

    def release(self) -> None:
        """Nothing is kept free any more."""
        (self.folder / _ROOM).unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append to the original. Raises ``ApiError``: past the limit, and on a full disk."""
        self._left -= len(data)
        if self._left < 0:
            raise self._over_limit
        with answered_507():
            self._file.write(data)

    def flush(self) -> None:
        """Let others read what was written. Raises ``ApiError`` on a full disk."""
        with answered_507():
            self._file.flush()

    def sync(self) -> None:
        """Everything is on disk when this returns."""
        self._file.flush()
        for path in (self.original, self.text):
            if path.exists():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        os.fsync(self._lock)

    def read_text(self, format: Format) -> str:
        """The text that was made of it."""
        return read_text(self.original if format == "plain" else self.text)


def reservation_in(folder: Path) -> Reservation | None:
    """What is kept free for the upload in ``folder`` while it is written."""
    with suppress(FileNotFoundError):  # dropped this moment
        if is_written(folder):
            size, _, owner = (folder / _ROOM).read_text().partition(" ")
            return Reservation(owner=owner, bytes=int(size))
    return None


def is_written(folder: Path) -> bool:
    """True while the process that writes ``folder`` lives."""
    with suppress(BlockingIOError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        finally:
            os.close(handle)
    return True
