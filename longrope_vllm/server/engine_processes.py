"""The processes of the engine, as the operating system sees them: there, stopped, gone.

vLLM's API server notices when an engine core that it started itself is gone. A stopped one (SIGSTOP, ``kill -STOP``)
leaves its clients waiting for ever.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import psutil

from longrope_vllm.plugin.pulse import Pulse


class EngineProcesses:
    """Engine cores on this machine, with the workers that each had when it was found."""

    def __init__(self, cores: Sequence[psutil.Process]) -> None:
        self._cores = tuple(cores)
        self._workers = tuple(worker for core in cores for worker in core.children(recursive=True))

    @classmethod
    def of(cls, pulses: Sequence[Pulse]) -> Self:
        """Those among ``pulses`` that run here; an engine core elsewhere is watched by vLLM there."""
        found = (_local(pulse) for pulse in pulses)
        return cls([process for process in found if process is not None])

    def is_gone(self) -> bool:
        """True if an engine core has ended. A worker's end is told by its engine core."""
        return any(_status(core) in (None, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) for core in self._cores)

    def is_stopped(self) -> bool:
        """True if a signal has stopped an engine core or a worker. Held by a debugger or profiler does not count."""
        return any(_status(process) == psutil.STATUS_STOPPED for process in (*self._cores, *self._workers))

    def kill(self) -> None:
        """End all of them; SIGKILL also ends a stopped process."""
        for process in (*self._workers, *self._cores):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _local(pulse: Pulse) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pulse.pid)
        if process.create_time() == pulse.created:
            return process
    return None


def _status(process: psutil.Process) -> str | None:
    try:
        status: str = process.status()
    except psutil.NoSuchProcess:
        return None
    return status if process.is_running() else None
