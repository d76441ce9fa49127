"""The fake server behind HTTP, as far as ``longrope verify`` speaks it: vLLM's routes and the plugin's."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fake_server import FakeServer

from longrope_vllm.verification.answers import Answer, Question


@dataclass(kw_only=True)
class Site:
    """A fake server at a URL, and what it was sent."""

    server: FakeServer
    models: tuple[str, ...] = ("tiny",)
    policy: str = "prompt"
    has_tiers: bool = True
    url: str = ""
    keys: set[str | None] = field(default_factory=set)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def get(self, path: str) -> Any:
        """The document at ``path``, or None where there is none."""
        if path == "/v1/models":
            return {"data": [{"id": name} for name in self.models]}
        if path == "/version":
            return {"version": "0.32.0"}
        if path == "/v1/longrope" and self.has_tiers:
            tiers = [
                {"max_length": length, "plain": not index, "own": not index, "identity": str(index)}
                for index, length in enumerate(self.server.lengths)
            ]
            return {"policy": self.policy, "tiers": tiers}
        if path.startswith("/v1/requests/"):
            return {"longrope": vars(self.server.served_of[path.rpartition("/")[2]])}
        return None

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to ``body``, or None for a request that is refused."""
        if path == "/tokenize":
            start = [1] if body["add_special_tokens"] else []
            return {"tokens": [*start, *(ord(character) % 400 for character in body["prompt"])]}
        self.bodies.append(body)
        tier = body.get("longrope_tier")
        if self.policy == "explicit" and tier is None:
            return None
        question = Question(
            prompt=tuple(body["prompt"]), max_tokens=body["max_tokens"], tier=tier, salt=body.get("cache_salt")
        )
        return completion(asyncio.run(self.server.ask(question)))


def completion(answer: Answer) -> dict[str, Any]:
    """``answer`` in vLLM's form, tokens as ids."""
    logprobs = {
        "tokens": [f"token_id:{step.token}" for step in answer.steps],
        "top_logprobs": [{f"token_id:{token}": value for token, value in step.top.items()} for step in answer.steps],
    }
    return {
        "id": answer.id,
        "choices": [{"text": "the code is 48213", "logprobs": logprobs}],
        "usage": {"prompt_tokens_details": None},
    }


@contextmanager
def site(server: FakeServer, **options: Any) -> Iterator[Site]:
    """``server`` at a URL of this machine."""
    place = Site(server=server, **options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(place.get(self.path), 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(place.post(self.path, body), 400)

        def _answer(self, document: Any, otherwise: int) -> None:
            place.keys.add(self.headers["Authorization"])
            body = json.dumps(document or {"error": {"message": "refused here"}}).encode()
            self.send_response(otherwise if document is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Silence."""

    class Listening(ThreadingHTTPServer):
        request_queue_size = 64  # connections that wait to be accepted

    listening = Listening(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        place.url = f"http://127.0.0.1:{listening.server_port}"
        yield place
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
