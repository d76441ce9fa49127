"""A disk without room, answered as what it is."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from longrope_vllm.server.api_error import ApiError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def answered_507() -> Iterator[None]:
    """Raise ``ApiError`` 507 where the file system, or SQLite on it, has no room left."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise _no_room() from error
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise _no_room() from error


def _no_room() -> ApiError:
    return ApiError(
        "Expected room for this file on the disk of the server, found none: delete files, or tell its owner.",
        status=507,
        code="insufficient_storage",
        type="server_error",
    )
