"""An OpenAI-compatible server of a few lines, which answers by arithmetic and can misbehave in every way we guard."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
    has_tops: bool = True
    tiers: tuple[int, ...] = ()
    root: str | None = None
    owner: str | None = None
    version: str | None = None
    """That of vLLM; None for another server."""
    completion: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """What it answers to a request, instead of arithmetic."""
    instead: Mapping[str, Any] = field(default_factory=dict)
    """Document, or bytes, by path, whatever it should be."""
    fails: int | None = None
    """HTTP status of every completion."""
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
            entry = {"id": "tiny", "max_model_len": self.limit, "root": self.root, "owned_by": self.owner}
            return {"data": [entry]}
        if path == "/version" and self.version:
            return {"version": self.version}
        if path == "/v1/longrope" and self.tiers:
            return {"tiers": [{"max_length": length, "identity": f"rope{length}"} for length in self.tiers]}
        return None

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        """A completion: the loss of a token is a thousandth of its id."""
        self.bodies.append(body)
        self.ending.wait(self.seconds)
        if self.completion is not None:
            return self.completion(body)
        prompt = body["prompt"][-self.reads :]
        stated = [None, *(-token / 1000 for token in prompt[1:])] if self.has_logprobs and body.get("echo") else None
        tops = [None if value is None else {"best": value} for value in stated or []]
        logprobs = {"token_logprobs": stated, "top_logprobs": tops if self.has_tops else None} if stated else None
        choice = {"text": f" {len(prompt)}", "logprobs": logprobs}
        return {"choices": [choice], "usage": {"prompt_tokens": len(prompt)}}


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """``site`` behind a URL of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = site.instead.get(self.path, site.get(self.path))
            self.give(document, status=404 if document is None else 200)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if len(site.bodies) >= site.answers:
                self.connection.close()
                return
            answer = site.post(body)
            self.give(site.instead.get(self.path, answer), status=site.fails or 200)

        def give(self, document: Any, *, status: int) -> None:
            said = {"error": {"message": "none here"}} if document is None else document
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", site.content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked may have left
                self.wfile.write(content)

        def log_message(self, *said: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
