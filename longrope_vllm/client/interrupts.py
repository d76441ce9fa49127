"""Signals as a command ends by them: once to clean up, twice to quit."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ending_well() -> Iterator[None]:
    """Within the block, the first SIGINT is a ``KeyboardInterrupt``, the first SIGTERM or SIGHUP a ``SystemExit``.

    What the block holds open is closed by each; a second one ends the process at once, closing nothing. A signal
    that is ignored, as SIGINT in jobs of the background, stays ignored. For the main thread.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
