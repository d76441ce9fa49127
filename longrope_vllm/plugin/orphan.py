"""An engine core whose API server is gone ends itself, with its workers: nobody else would, and they hold the GPU.

vLLM's API server ends them when it exits; one that is killed (SIGKILL, out of memory) cannot.

Patch of ``EngineCoreProc.run_busy_loop``, and of its form for data parallelism. Remove when vLLM's engine core watches
its parent.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from longrope_vllm.plugin.patching import wrap_once

INTERVAL = 1.0
"""Seconds between two looks at the parent."""

logger = logging.getLogger("vllm.longrope")


def install() -> None:
    """Let every engine core that is a process of its own watch its parent while it runs."""
    from vllm.v1.engine.core import DPEngineCoreProc, EngineCoreProc

    for kind in (EngineCoreProc, DPEngineCoreProc):
        wrap_once(kind, "run_busy_loop", _watching)


def _watching(original: Callable[..., Any]) -> Callable[..., Any]:
    def run_busy_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid is not None:  # Ray's actors have none and are Ray's to end
            threading.Thread(target=end_with, args=(parent.pid,), daemon=True, name="longrope-parent").start()
        return original(self, *args, **kwargs)

    return run_busy_loop


def end_with(parent: int) -> None:
    """Wait until the process with the id ``parent`` has ended, then kill this process and all of its own children.

    A look at it, because the signal that Linux sends on a parent's death follows the thread that started the child,
    which may end sooner, and a process of a fork server is another one's child.
    """
    while _is_alive(parent):
        time.sleep(INTERVAL)
    logger.error("longrope: the API server (process %d) is gone, this engine core ends with it", parent)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
