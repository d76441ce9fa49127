"""Write a file so that a reader sees the old content or the new one, never a part (POSIX rename)."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content`` (text as UTF-8); the bytes are on disk before the name points at them.

    Keeps the mode of a file that is replaced; a new one gets ``mode``. Raises ``OSError`` and leaves no temporary file
    behind when the disk is full or the folder is read-only.
    """
    data = content.encode() if isinstance(content, str) else content
    mode = path.stat().st_mode & 0o777 if path.exists() else mode
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_unfinished(path: Path) -> None:
    """Remove what writers of ``path`` left beside it because they were killed. Nobody may be writing it now."""
    for temporary in path.parent.glob(f".{path.name}.*"):
        temporary.unlink(missing_ok=True)
