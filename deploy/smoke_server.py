"""The server under test over HTTP, and what is known of it so far."""

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

GENERATED = 8
"""Tokens that a request generates."""
UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


class CheckError(Exception):
    """What was expected, what was found, what to do; one sentence."""


@dataclass(kw_only=True)
class Server:
    """The server under test and what is known of it so far."""

    url: str
    key: str | None
    timeout: float
    """Seconds of silence after which a request counts as failed."""
    model: str = ""
    limit: int = 0
    """Longest sequence, in tokens."""
    lengths: list[int] = field(default_factory=list)
    """Longest sequence of each tier, shortest tier first."""
    served: list[int] = field(default_factory=list)
    """The tier, as a length, in which each of our requests ended."""
    crossed: list[int] = field(default_factory=list)
    """The same, once for each crossing."""
    metrics_before: str = ""

    @property
    def has_tiers(self) -> bool:
        """Whether requests differ in their tier; a single tier is told nowhere, as on a server without any."""
        return len(self.lengths) > 1

    def open(self, path: str, body: object = None, *, key: str | None = "") -> Any:
        """The response to a GET, or to a POST of ``body`` as JSON. Raises ``urllib.error.HTTPError`` from 400 on."""
        sent = self.key if key == "" else key
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {sent}"} if sent else {})
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=self.timeout)

    def get(self, path: str) -> str:
        """The text at ``path``."""
        with self.open(path) as answer:
            text: str = answer.read().decode()
            return text

    def status(self, path: str, *, key: str | None = "") -> int:
        """The status of a GET, whatever it is."""
        try:
            with self.open(path, key=key) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def completion(self, prompt: list[int], tokens: int = GENERATED, **fields: Any) -> dict[str, Any]:
        """Body of a completion that generates exactly ``tokens`` and starts in the tier of its prompt."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        return body | ({"longrope_policy": "prompt"} if self.has_tiers else {}) | fields


def counts(text: str, name: str) -> dict[int, float]:
    """Values of the metric ``name`` by tier, a length in tokens; summed over other labels."""
    found: dict[int, float] = defaultdict(float)
    for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)", text, re.MULTILINE):
        if tier := re.search(r'\btier="([\d,]+)([kM]?)"', labels):
            found[int(tier[1].replace(",", "")) * UNITS[tier[2].lower()]] += float(value)
    return found


def events(answer: Any) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream. Raises ``CheckError`` when it breaks off or tells of an error."""
    for line in answer:
        data = line.decode().strip().removeprefix("data: ")
        if data == "[DONE]":
            return
        if data.startswith("{"):
            event: dict[str, Any] = json.loads(data)
            if "error" in event:
                raise CheckError(f"Expected a stream of tokens, found the error {event['error']}.")
            yield event
    raise CheckError("Expected a stream up to [DONE], found its end before: a proxy or the server closed it.")


def tier_of(server: Server, length: int) -> int:
    """The first tier that holds ``length`` tokens; the last one if none does."""
    return next((tier for tier, limit in enumerate(server.lengths) if length <= limit), len(server.lengths) - 1)


def wait(server: Server, seconds: float) -> None:
    """Return once /health answers 200, or when the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if server.status("/health") == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(min(2.0, seconds))
