"""How patient a client, a proxy, the probes and a draining server have to be, from the longest request.

The longest request is a prompt of the whole context at the slow end of the estimate, half as long again for what runs
beside it, and an answer of ``ANSWER`` tokens at ``READING`` of the bandwidth. A client also waits while one such prompt
is before it; a proxy waits longer than the client, whose retry is known by how long it waited (``docs/http.md``); a
server that ends waits for what runs, and Kubernetes for the server.
"""

from dataclasses import dataclass
from math import ceil

from longrope_vllm.plan.prefill_time import PrefillTime
from longrope_vllm.server.files.settings import FileSettings

ANSWER = 4096
READING = 0.5
BESIDE = 1.5
"""Of a prefill's time, for short requests and tokenizing beside it."""
UNKNOWN = 3540
"""Seconds that a client waits where the GPUs' speed is not known: those of docs/nginx.conf, less a minute."""
LOADING = 250_000_000
"""Bytes a second at which a node reads weights, an assumption: a network disk."""
WARMING = 1800
"""Seconds for compiling, CUDA graphs and the first shapes."""
PRE_STOP = 15
"""Seconds until every proxy knows that a server goes."""


@dataclass(frozen=True, kw_only=True)
class TimeOuts:
    """Seconds."""

    client: int
    proxy_read: int
    proxy_send: int
    startup: int
    """Until the server must have answered once; also ``VLLM_ENGINE_READY_TIMEOUT_S``."""
    progress_deadline: int
    """Of a Kubernetes Deployment: a server that is replaced drains first, then its successor starts on its GPUs."""
    liveness: int
    """A server may be silent for so long: first shapes are compiled for up to a minute."""
    step: int
    """``VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS``: the longest step, with room."""
    shutdown: int
    """``--shutdown-timeout``."""
    pre_stop: int
    grace: int
    """``terminationGracePeriodSeconds``: ``pre_stop``, ``shutdown`` and the end of the processes."""

    @classmethod
    def of(cls, time: PrefillTime | None, weights_of_a_node: int) -> "TimeOuts":
        """Of a server whose longest prompt takes ``time``; None: it is not known."""
        startup = _minutes(WARMING + weights_of_a_node / LOADING)
        client = UNKNOWN if time is None else max(600, _minutes(time.worst + _request(time)))
        shutdown = UNKNOWN if time is None else _minutes(_request(time))
        grace = PRE_STOP + shutdown + 45
        return cls(
            client=client,
            proxy_read=client + 60,
            proxy_send=600,
            startup=startup,
            progress_deadline=grace + startup + 300,
            liveness=300,
            step=300 if time is None else max(300, _minutes(3 * time.longest_step)),
            shutdown=shutdown,
            pre_stop=PRE_STOP,
            grace=grace,
        )


def body_size() -> str:
    """nginx's ``client_max_body_size``: the largest file with what a form adds (docs/nginx.conf)."""
    return f"{FileSettings().file_bytes // 1_000_000 + 8}m"


def _request(time: PrefillTime) -> float:
    reading = 0.0 if time.tokens_per_second is None else ANSWER / (READING * time.tokens_per_second)
    return BESIDE * time.worst + reading


def _minutes(seconds: float) -> int:
    """Up to the next whole minute."""
    return 60 * ceil(seconds / 60)
