"""A server that answers as ``longrope serve`` does, as far as ``deploy/smoke.py`` asks; with faults on demand."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal[
    "unhealthy", "not ready", "open", "stock", "wrong tier", "no crossing", "not counted", "broken stream", "no metrics"
]


@dataclass(kw_only=True)
class FakeLongRope:
    """Tiers of ``lengths`` tokens, an optional key, and what is wrong with the server."""

    lengths: tuple[int, ...] = (256, 1024)
    key: str | None = None
    fault: Fault | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    requests: Counter[int] = field(default_factory=Counter)
    crossings: Counter[int] = field(default_factory=Counter)

    def get(self, path: str, key: str | None) -> tuple[int, str]:
        """Status and text at ``path``."""
        if path.startswith("/health"):
            bad = {"unhealthy": "/health", "not ready": "/health/ready"}.get(self.fault or "")
            return (503 if path == bad else 404 if path == "/health/progress" else 200), ""
        if self.key is not None and key != self.key and self.fault != "open":
            return 401, "{}"
        if path == "/v1/models":
            return 200, json.dumps({"data": [{"id": "tiny", "max_model_len": max(self.lengths, default=512)}]})
        if path == "/v1/longrope" and self.fault != "stock":
            return 200, json.dumps({"tiers": [{"max_length": length} for length in self.lengths]})
        if path == "/metrics" and self.fault != "no metrics":
            return 200, self.metrics()
        return 404, "{}"

    def metrics(self) -> str:
        """In the text format of Prometheus; the label spells a length as the server does."""
        shown = {length: f"{length // 1024}k" if length % 1024 == 0 else str(length) for length in self.lengths}
        return "".join(
            f'longrope_{name}_total{{tier="{shown[length]}"}} {float(counter[length])}\n'
            for name, counter in (("requests", self.requests), ("crossings", self.crossings))
            for length in self.lengths
        )

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a completion, and its count."""
        self.bodies.append(body)
        prompt, generated = len(body["prompt"]), body["max_tokens"]
        answer = {"usage": {"prompt_tokens": prompt, "completion_tokens": generated}}
        if len(self.lengths) < 2:
            return answer
        start, end = (
            next(i for i, limit in enumerate(self.lengths) if n <= limit) for n in (prompt, prompt + generated - 1)
        )
        end = {"wrong tier": len(self.lengths) - 1, "no crossing": start}.get(self.fault or "", end)
        length, crossed = self.lengths[end], max(0, end - start) if self.fault != "wrong tier" else 0
        if self.fault != "not counted":
            self.requests[length] += 1
            self.crossings[length] += crossed
        told = {"tier": end, "tier_max_length": length, "crossings": crossed, "reprefilled_tokens": crossed * prompt}
        return answer | {"longrope": told}


@contextmanager
def running_fake(fake: FakeLongRope) -> Iterator[str]:
    """Serve ``fake`` and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
            self.answer(*fake.get(self.path, key))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            document = json.dumps(fake.complete(body))
            if not body.get("stream"):
                return self.answer(200, document)
            end = "" if fake.fault == "broken stream" else "data: [DONE]\n\n"
            return self.answer(200, f': ping\n\ndata: {{"choices": []}}\n\ndata: {document}\n\n{end}')

        def answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever, args=[0.02])
        thread.start()
        try:
            yield f"http://127.0.0.1:{site.server_address[1]}"
        finally:
            site.shutdown()
            thread.join()
