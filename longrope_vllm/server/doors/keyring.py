"""The keys in force: those of the file, read again when it has changed, and those of the command line."""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from longrope_vllm.server.doors.keys_file import Key, KeysFileError, hash_of, read_keys

logger = logging.getLogger("vllm.longrope")

_LOOK_AGAIN = 1.0
"""Seconds for which the file is taken to be what it was."""

_Mark = tuple[int, int, int] | None


def command_line_keys(tokens: Sequence[str]) -> tuple[Key, ...]:
    """Keys of vLLM's ``--api-key``: each its own owner, without limits, and an admin's."""
    return tuple(
        Key(owner=hashlib.sha256(token.encode()).hexdigest(), hashes=(hash_of(token),), admin=True) for token in tokens
    )


class Keyring:
    """``path`` is the file of keys, None for none; ``others`` stay in force whatever the file says.

    Raises ``KeysFileError`` for a file that cannot be used. Once there is a good one, a bad one is logged and the keys
    of the last good one stay: a slip of an editor must neither open the server nor shut everybody out.
    """

    def __init__(
        self, path: Path | None, others: Sequence[Key] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._others, self._clock = path, tuple(others), clock
        self._mark = _mark_of(path)
        self._keys = self._others if path is None else (*read_keys(path), *self._others)
        self._looked = clock()

    @property
    def is_open(self) -> bool:
        """True if no key is asked for. A file without keys shuts everybody out."""
        return self._path is None and not self._others

    def find(self, token: str) -> Key | None:
        """The owner of ``token``, None for one that is not known (any more)."""
        self._refresh()
        sought, found = hash_of(token), None
        for key in self._keys:  # all of them, whichever it is
            for known in key.hashes:
                if hmac.compare_digest(sought, known):
                    found = key
        return found

    def _refresh(self) -> None:
        now = self._clock()
        if self._path is None or now - self._looked < _LOOK_AGAIN:
            return
        self._looked = now
        mark = _mark_of(self._path)
        if mark == self._mark:
            return
        self._mark = mark
        try:
            read = read_keys(self._path)
        except KeysFileError as error:
            logger.error("longrope: the keys stay as they were. %s", error)
            return
        self._keys = (*read, *self._others)
        logger.info("longrope: %d owners have keys in %s now", len(read), self._path)


def _mark_of(path: Path | None) -> _Mark:
    """Differs when the file was written or replaced; None if it is not there."""
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
