"""An OpenAI-compatible server of a few lines, which answers by arithmetic and can misbehave in every way we guard."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(kw_only=True)
class Site:
    """How it behaves, and what it was asked."""

    limit: int | None = 4096
    """``max_model_len``; None for a server that does not tell."""
    reads: int = 1_000_000
    """Tokens of a prompt that it keeps, silently."""
    has_logprobs: bool = True
    tiers: tuple[int, ...] = ()
    root: str | None = None
    answers: int = 1_000_000
    """Completions after which it dies."""
    ending: threading.Event = field(default_factory=threading.Event)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    """Before it answers; the end of the server is not waited for."""
    content_type: str = "application/json"
    url: str = ""

    def get(self, path: str) -> Any:
        """The document at ``path``, or None."""
        if path == "/v1/models":
            return {"data": [{"id": "tiny", "max_model_len": self.limit, "root": self.root}]}
        if path == "/v1/longrope" and self.tiers:
            return {"tiers": [{"max_length": length, "identity": f"rope{length}"} for length in self.tiers]}
        return None

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        """A completion: the loss of a token is a thousandth of its id."""
        self.bodies.append(body)
        self.ending.wait(self.seconds)
        prompt = body["prompt"][-self.reads :]
        stated = [None, *(-token / 1000 for token in prompt[1:])] if self.has_logprobs and body.get("echo") else None
        choice = {"text": f" {len(prompt)}", "logprobs": {"token_logprobs": stated} if stated else None}
        return {"choices": [choice], "usage": {"prompt_tokens": len(prompt)}}


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """``site`` behind a URL of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.give(site.get(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if len(site.bodies) >= site.answers:
                self.connection.close()
                return
            self.give(site.post(body))

        def give(self, document: Any) -> None:
            content = json.dumps(document if document is not None else {"error": "none here"}).encode()
            self.send_response(404 if document is None else 200)
            self.send_header("Content-Type", site.content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *said: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
