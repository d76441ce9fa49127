"""A server as a child process: started, waited for, ended. Its output goes to a log file."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from longrope_vllm.errors import ServerError

_STOP_LIMIT = 30.0
_TRACEBACK = "Traceback (most recent call last)"
_RAISED = re.compile(r"(?:^|[\])] )[\w.]+(?:Error|Exception)\b")
"""The last line of a traceback, behind what vLLM writes before each line: ``(EngineCore pid=7) ERROR [core.py:1] ``."""


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server that answers at ``url``; ``process`` leads a process group of its own."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def running(
    module: str,
    options: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    within: float = 300.0,
    waiting: Callable[[float], None] = lambda seconds: None,
) -> Iterator[RunningServer]:
    """Run ``python -m module options`` as a server and yield it once it answers; end it by SIGTERM on exit.

    ``waiting`` is called about twice a second with the seconds since the start. Raises ``ServerError`` with the end of
    the log when the process dies or does not answer ``within`` seconds.
    """
    port = free_port()
    command = [sys.executable, "-m", module, *options, "--host", "127.0.0.1", "--port", str(port)]
    # A signal between the fork and the assignment would leave a server that nobody knows: it waits until we do.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # a session of its own would be one more scheduling group, whose engine may starve us
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
        )
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        url = f"http://127.0.0.1:{port}"
        _wait(process, url, log, within=within, waiting=waiting)
        yield RunningServer(url=url, process=process)
    finally:
        _stop(process)


def _wait(
    process: subprocess.Popen[bytes], url: str, log: Path, *, within: float, waiting: Callable[[float], None]
) -> None:
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < within:
        waiting(elapsed)
        if process.poll() is not None:
            raise ServerError(
                f"Expected a running server, found exit code {process.returncode}: see {log}.\n{_end(log)}"
            )
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            pass
        time.sleep(0.5)
    raise ServerError(f"Expected the server to answer within {within:.0f} s, found silence: see {log}.\n{_end(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server alone, then, if it does not end by that, SIGKILL to its whole group."""
    process.terminate()
    try:
        process.wait(_STOP_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(log: Path, lines: int = 15) -> str:
    """How the log ends, and before it how its first traceback does: an engine fails first, in a process of its own."""
    said = log.read_text(errors="replace").splitlines()
    begin = next((number for number, line in enumerate(said) if _TRACEBACK in line), len(said))
    raised = next((number for number in range(begin, len(said)) if _RAISED.search(said[number])), len(said))
    last = max(0, len(said) - lines)
    if raised >= last:
        return "\n".join(said[last:])
    return "\n".join([*said[max(begin, raised - lines) : raised + 1], "…", *said[last:]])
