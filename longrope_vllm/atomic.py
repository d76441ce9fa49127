"""Write a file so that a reader sees the old content or the new one, never a part (POSIX rename)."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content`` (text as UTF-8); the bytes are on disk before the name points at them.

    Keeps the mode of a file that is replaced, and its owner and group as far as that is allowed: root may write what
    somebody else reads. A new one gets ``mode``. Raises ``OSError`` and leaves no temporary file behind when the disk
    is full or the folder is read-only.
    """
    data = content.encode() if isinstance(content, str) else content
    before = path.stat() if path.exists() else None
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if before is not None:
                with suppress(PermissionError):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), mode if before is None else before.st_mode & 0o777)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_unfinished(path: Path) -> None:
    """Remove what writers of ``path`` left beside it because they were killed. Nobody may be writing it now."""
    for temporary in path.parent.glob(f".{path.name}.*"):
        temporary.unlink(missing_ok=True)
