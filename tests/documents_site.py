"""An OpenAI-compatible server that keeps files, tells progress and streams a script; it can misbehave in many ways."""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIES = object()
"""A step of a script at which the connection closes."""
HANGS = object()
"""A step that lasts until the client leaves or the server ends."""

Step = Any
"""A chunk (dict), a comment (str), seconds (float), or one of the above."""


def progress(processed: int, *, total: int = 1000, cache: int = 0, time_ms: int = 0, **more: int) -> dict[str, Any]:
    """A chunk of progress."""
    told = {"total": total, "cache": cache, "processed": processed, "time_ms": time_ms, **more}
    return {"choices": [], "prompt_progress": told}


def piece(text: str, *, reason: str | None = None, field_name: str = "content") -> dict[str, Any]:
    """A chunk of the answer."""
    return {"choices": [{"index": 0, "delta": {field_name: text}, "finish_reason": reason}]}


def counted(prompt: int = 1000, answer: int = 2, *, cached: int | None = None, **more: Any) -> dict[str, Any]:
    """The chunk of usage."""
    details = None if cached is None else {"cached_tokens": cached}
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "prompt_tokens_details": details}
    return {"choices": [], "usage": usage, **more}


PLAIN: tuple[Step, ...] = (piece(""), piece("Forty"), piece("-two."), piece("", reason="stop"), counted())


@dataclass(kw_only=True)
class Site:
    """How it behaves, and what it was asked."""

    files: bool = True
    tiers: bool = True
    llama: bool = False
    models: Sequence[Mapping[str, Any]] = ({"id": "tiny", "root": "/tiny"},)
    script: Sequence[Step] = PLAIN
    scripts: list[Sequence[Step]] = field(default_factory=list)
    """For the answers before those of ``script``, one each."""
    refusals: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """Status and body by ``"METHOD path"``."""
    upload_seconds: float = 0.0
    remark: str | None = None
    """Of the server on every file."""
    delete_seconds: float = 0.0
    key: str | None = None
    url: str = ""
    stored: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Name and content by id."""
    uploads: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    """A chat request has come."""
    left: threading.Event = field(default_factory=threading.Event)
    """A client left before its answer was whole."""
    deleting: threading.Event = field(default_factory=threading.Event)
    """A file is to be deleted."""
    ending: threading.Event = field(default_factory=threading.Event)

    def get(self, path: str) -> Any:
        """The document at ``path``, or None."""
        if path == "/v1/models":
            return {"data": list(self.models)}
        if path == "/v1/longrope" and self.tiers:
            return {"tiers": []}
        if path == "/props" and self.llama:
            return {"default_generation_settings": {}}
        if path.startswith("/v1/files?") and self.files:
            return {"data": [self.file(file_id) for file_id in self.stored]}
        if path.startswith("/v1/files/") and path.rpartition("/")[2] in self.stored:
            return self.file(path.rpartition("/")[2])
        return None

    def file(self, file_id: str) -> dict[str, Any]:
        """A FileObject; a byte is a token."""
        name, content = self.stored[file_id]
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "filename": name,
            "purpose": "user_data",
            "tokens": len(content),
            "status_details": self.remark,
            "longrope": {"tier": 1, "tier_max_length": 131072},
        }

    def store(self, name: str, content: bytes) -> dict[str, Any]:
        """Keep a file."""
        file_id = f"file-{len(self.uploads)}"
        self.uploads.append(name)
        self.stored[file_id] = (name, content)
        return self.file(file_id)


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """``site`` behind a URL of this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self.refused():
                found = site.get(self.path)
                self.give(404 if found is None else 200, found)

        def do_DELETE(self) -> None:
            if self.refused():
                return
            site.deleting.set()
            site.ending.wait(site.delete_seconds)
            file_id = self.path.rpartition("/")[2]
            site.deleted.append(file_id)
            del site.stored[file_id]
            self.give(200, {"id": file_id, "object": "file", "deleted": True})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.refused():
                return
            if self.path == "/v1/files":
                name, file = form_file(self.headers["Content-Type"], content)
                site.ending.wait(site.upload_seconds)
                self.give(200, site.store(name, file))
                return
            site.bodies.append(json.loads(content))
            script = site.scripts.pop(0) if site.scripts else site.script
            site.asked.set()
            try:
                self.stream(script)
            except ConnectionError:
                site.left.set()

        def stream(self, script: Sequence[Step]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            for step in script:
                if step is DIES:
                    return
                if step is HANGS:
                    self.hang()
                    return
                if isinstance(step, float):
                    site.ending.wait(step)
                    continue
                whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "tiny", "created": 1}
                self.piece(step if isinstance(step, str) else f"data: {json.dumps({**whole, **step})}\n\n")
            self.piece("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

        def piece(self, text: str) -> None:
            self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
            self.wfile.flush()

        def hang(self) -> None:
            self.connection.settimeout(0.05)
            while not site.ending.is_set():
                with suppress(TimeoutError):
                    if not self.connection.recv(1):
                        site.left.set()
                        return

        def refused(self) -> bool:
            site.seen.append(f"{self.command} {self.path}")
            if site.key is not None and self.headers["Authorization"] != f"Bearer {site.key}":
                self.give(401, {"error": "Unauthorized"})
                return True
            refusal = site.refusals.get(f"{self.command} {self.path}")
            if refusal is not None:
                self.give(*refusal)
            return refusal is not None

        def give(self, status: int, document: Any) -> None:
            said = {"detail": "Not Found"} if document is None else document
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(said, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(content)

        def log_message(self, *said: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
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


def form_file(content_type: str, content: bytes) -> tuple[str, bytes]:
    """Name and content of the part ``file`` of a form."""
    form = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + content)
    part = next(part for part in form.iter_parts() if 'name="file"' in part["Content-Disposition"])
    assert re.search('name="purpose"\r\n\r\nuser_data', content.decode(errors="replace"))
    return part.get_filename(), part.get_payload(decode=True)
