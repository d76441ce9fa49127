"""What is written may find the disk full: then one sentence says so, whichever library was writing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from longrope_vllm.errors import TrainingError

_OF_TORCH = ("PytorchStreamWriter", "inline_container", "unexpected pos")
"""Words of the errors that torch raises when it cannot write on."""


@contextmanager
def room_for(what: str, folder: Path) -> Iterator[None]:
    """Raise ``TrainingError`` when ``what`` cannot be written to ``folder`` within the block."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _full(what, folder, error) from None
    except RuntimeError as error:
        if not any(word in str(error) for word in _OF_TORCH):
            raise
        raise _full(what, folder, error) from None


def _full(what: str, folder: Path, error: Exception) -> TrainingError:
    reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
    return TrainingError(
        f"Expected room for {what} in {folder}, found: {reason}. What was complete before is kept: make room and start "
        "again."
    )
