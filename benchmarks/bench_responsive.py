"""Does the server answer others while it reads a body of many megabytes: the longest wait for an answer meanwhile.

    python benchmarks/bench_responsive.py --out benchmarks/results/responsive_cpu_DATE.md [--megabytes N]

One server (``longrope serve``, random weights, the demo model's tokenizer, tiers up to 32k tokens). A text of 27 MB,
Python's own documentation over and over, goes to chat completions, completions and responses, which refuse it with its
exact length, to the count route and to vLLM's ``/tokenize``, one after the other. All the while two others ask, each
again a tenth of a second after its answer: one for ``/health``, one for a word in a chat. About 5 minutes on two CPU
cores.
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from checkpoints import THIN, tiered
from longrope_vllm.demo.document import reference_text
from longrope_vllm.server.running import running
from report import command_line, provenance

WINDOW, LONGEST = 8_192, 32_768
GOAL = 1.0
"""Seconds within which ``/health`` has to answer, whatever else is going on."""
PAUSE = 0.1
IDLE = 5.0
LIMIT = 3600.0

ROUTES: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "chat completions": ("/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}]}),
    "completions": ("/v1/completions", lambda text: {"prompt": text}),
    "responses": ("/v1/responses", lambda text: {"input": text}),
    "count": ("/v1/responses/input_tokens", lambda text: {"input": text}),
    "vLLM's `/tokenize`": ("/tokenize", lambda text: {"prompt": text}),
}


CHAT = json.dumps({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}).encode()


@dataclass
class Pulse:
    """Asks a question until it is stopped and keeps how long each answer took, in seconds."""

    question: Callable[[], tuple[int, bytes]]
    seconds: list[float] = field(default_factory=list)
    failed: str | None = None
    """What came back in place of an answer."""
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Pulse":
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()
        if self.failed is not None:
            raise RuntimeError(f"Expected answers to others all the while, found {self.failed}.")

    def _beat(self) -> None:
        while not self._stopped.wait(PAUSE):
            started = time.perf_counter()
            try:
                status, answer = self.question()
            except (OSError, http.client.HTTPException) as error:
                self.failed = repr(error)
                return
            if status != 200:
                self.failed = f"HTTP {status}: {answer[:500]!r}"
                return
            self.seconds.append(time.perf_counter() - started)


def ask(address: str, method: str, route: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of the answer."""
    connection = http.client.HTTPConnection(address, timeout=LIMIT)
    try:
        connection.request(method, route, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def row(name: str, address: str, body: bytes | None) -> str:
    """One line of the table: what was sent, what came back, how the server was meanwhile."""
    health = Pulse(lambda: ask(address, "GET", "/health"))
    chat = Pulse(lambda: ask(address, "POST", "/v1/chat/completions", CHAT))
    with health, chat:
        started = time.perf_counter()
        if body is None:
            time.sleep(IDLE)
            status, answer = 200, b""
        else:
            status, answer = ask(address, "POST", ROUTES[name][0], body)
        elapsed = time.perf_counter() - started
        time.sleep(2 * PAUSE)  # the answer may have been held up with us
    longest = max(health.seconds)
    columns = (
        name,
        "" if body is None else f"{len(body) / 1e6:.1f}",
        "" if body is None else f"{status}",
        f"{elapsed:.1f}",
        "" if body is None else f"{len(answer) / 1e6:.3f}",
        str(len(health.seconds)),
        f"{longest:.2f}",
        "yes" if longest <= GOAL else "no",
        str(len(chat.seconds)),
        f"{max(chat.seconds):.2f}",
    )
    return f"| {' | '.join(columns)} |"


def markdown(rows: list[str], command: str) -> str:
    """The results page."""
    lines = [
        "# The longest wait for others while a text of many megabytes is read, on the CPU",
        "",
        "| body for | MB sent | status | s | MB back | `/health` asked | longest, s | in 1 s | chats | longest, s |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|",
        *rows,
        "",
        f"- checkpoint: SmolLM2's tokenizer, random weights of 2 layers, tiers up to {LONGEST:,} tokens.",
        "- a refusal takes as long as the text takes to be counted; a client that hangs up ends the counting.",
        provenance(command, "tokenizers", "fastapi", "uvicorn"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Start the server, send the bodies, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=27.0)
    asked = parser.parse_args()
    size = round(asked.megabytes * 1e6)
    once = reference_text()
    text = (once * (size // len(once) + 1))[:size]
    with tempfile.TemporaryDirectory() as folder:
        model = tiered(Path(folder) / "model", WINDOW, LONGEST, **THIN)
        options = ["serve", str(model), "--load-format", "dummy", "--enforce-eager", "--max-num-seqs", "4"]
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
        with running(
            "longrope_vllm.cli.main", options, environment=environment, log=Path(folder) / "log", within=900
        ) as server:
            address = urlsplit(server.url).netloc
            rows = [row("nothing", address, None)]
            for name, (_, body) in ROUTES.items():
                rows.append(row(name, address, json.dumps(body(text)).encode()))
                print(rows[-1], file=sys.stderr, flush=True)
    asked.out.write_text(markdown(rows, command_line("bench_responsive.py", sys.argv[1:])))


if __name__ == "__main__":
    main()
