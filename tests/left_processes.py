"""Processes that outlive what started them."""

import time
from collections.abc import Sequence

import psutil


def left(processes: Sequence[psutil.Process], *, within: float = 10.0) -> list[psutil.Process]:
    """Those that still run after ``within`` seconds. One that has ended counts as gone before anybody has noticed."""
    deadline = time.monotonic() + within
    while (running := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return running


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
