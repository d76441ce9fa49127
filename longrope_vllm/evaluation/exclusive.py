"""One evaluation at a time in a folder: two would write into one journal."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longrope_vllm.errors import EvaluationError


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make ``folder`` and hold it for the block; the kernel gives it back however the process ends.

    Raises ``EvaluationError`` when another process holds it, or when it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"Expected to make the folder {folder} for --out, found: {error.strerror}.") from None
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(
                f"Expected {folder} to be free, found another process writing to it: wait for it, or give another "
                "--out."
            ) from None
        yield
