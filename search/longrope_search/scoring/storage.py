"""Where a study is kept: an Optuna storage, which several processes and machines may share.

runs/study.log                 a journal file, on a local or a network file system: the default
sqlite:///study.db             one machine
postgresql://user@host/db      a cluster (mysql:// likewise)
"""

import errno
import fcntl
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from longrope_vllm.errors import SearchError

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(place: str, *, make: bool) -> BaseStorage:
    """The storage at ``place``. Raises ``SearchError`` when it cannot be opened, or is not there and not to be made."""
    if "://" in place:
        file = place.removeprefix("sqlite:///")
        if not make and file != place and not Path(file).is_file():
            raise SearchError(f"Expected a study at {place}, found none: start longrope search first.")
        try:
            return get_storage(place)
        except Exception as error:  # noqa: BLE001 - whatever a database and its driver raise
            raise SearchError(f"Expected a database for --study at {without_password(place)}, found: {error}") from None
    path = Path(place)
    if not make and not path.is_file():
        raise SearchError(f"Expected a study at {place}, found none: start longrope search first, or correct the path.")
    if path.is_file() and not _is_journal(path):
        raise _not_a_journal(place)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        backend = JournalFileBackend(str(path), lock_obj=FileLock(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return JournalStorage(backend)
    except OSError as error:
        raise SearchError(f"Expected to open the study {place}, found: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AssertionError):
        raise _not_a_journal(place) from None


_BEGINNING = b'{"op_code"'
"""Of every line of a journal."""


def _is_journal(path: Path) -> bool:
    """True for a file that begins as a journal does, also for an empty one and one torn in its first bytes."""
    with path.open("rb") as file:
        return _BEGINNING.startswith(file.read(len(_BEGINNING)))


def _not_a_journal(place: str) -> SearchError:
    return SearchError(f"Expected a journal of Optuna in {place}, found another file: name another one with --study.")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


@contextmanager
def written_to(place: str) -> Iterator[None]:
    """Raise one ``SearchError`` when the storage at ``place`` cannot be written to within the block."""
    try:
        yield
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        if isinstance(error, OSError) and error.errno not in _FULL:
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error.__cause__ or error)
        raise SearchError(
            f"Expected to write to the study {without_password(place)}, found: {reason}. What was measured before is "
            "kept: make room and run the same command again."
        ) from error


class FileLock(JournalFileOpenLock):
    """A lock that the kernel gives back however its process ends (Optuna's own stays behind after SIGKILL).

    Whoever takes it cuts off a last line that was not written to its end, as a full disk or a power cut leaves it:
    what is appended behind such a line could not be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        handle = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._handle = handle
        cut_torn_line(self._path)
        return True

    def release(self) -> None:
        """Give it back."""
        assert self._handle is not None
        os.close(self._handle)
        self._handle = None


def cut_torn_line(path: Path) -> None:
    """Shorten the file at ``path`` to its last whole line."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:
            begin = max(0, end - 4096)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            file.truncate(end)


def without_password(text: str) -> str:
    """``text`` with the passwords of its URLs left out: what is written or printed is passed on."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)
