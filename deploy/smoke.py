#!/usr/bin/env python3
"""Does a longrope server that was just deployed do its work? One short run against its URL, from any machine.

    python deploy/smoke.py http://HOST:8000 [--wait SECONDS] [--long 1M] [--api-key KEY | VLLM_API_KEY=KEY]

It asks for health, model and tiers, sends a short request, one past the first tier (as a stream) and one that crosses
into the next tier while it generates, and reads the metrics. Prompts are token ids: their lengths are exact for every
tokenizer. Out: one line a check. Exit code: 0 all passed, 1 a check failed, 2 a wrong option. Python 3.11, no packages.
"""

import argparse
import http.client
import json
import os
import random
import re
import sys
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SHORT = 16
"""Tokens of the short prompt."""
GENERATED = 8
"""Tokens that a request generates."""
PAST = 64
"""Tokens by which the long request exceeds the first tier; half of that is how far the crossing one goes over it."""
WORDS = range(32, 96)
"""Token ids of prompts: every tokenizer has them, and none of the usual ones ends a text there."""
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


def health(server: Server) -> str:
    """It answers; where it tells more about itself, that is good as well."""
    found = {path: server.status(path) for path in ("/health", "/health/ready", "/health/progress")}
    if found["/health"] != 200 or max(found.values()) >= 500:
        raise CheckError(f"Expected 200 from /health and no failure beside it, found {found}: see the server's log.")
    return ", ".join(path for path, status in found.items() if status == 200)


def key(server: Server) -> str:
    """Without the key nothing is served."""
    if server.key is None:
        return "none was given: not checked"
    if (found := server.status("/v1/models", key=None)) != 401:
        raise CheckError(f"Expected 401 without the key, found {found}: start the server with --api-key.")
    return "401 without it"


def model(server: Server) -> str:
    """A model is served, the one that was asked for if one was."""
    models = {entry["id"]: entry for entry in json.loads(server.get("/v1/models"))["data"]}
    server.model = server.model or next(iter(models))
    if server.model not in models:
        raise CheckError(
            f"Expected the model {server.model!r}, found {', '.join(models)}: name one of them by --model."
        )
    server.limit = int(models[server.model]["max_model_len"])
    return f"{server.model}, up to {server.limit:,} tokens"


def tiers(server: Server, expected: int) -> str:
    """The plugin is there and has at least as many tiers in force as expected."""
    found = json.loads(server.get("/v1/longrope"))["tiers"]
    server.lengths = [int(tier["max_length"]) for tier in found]
    if len(found) < expected:
        raise CheckError(
            f"Expected at least {expected} tiers, found {len(found)}: serve with --factors or --tiers, "
            f"or pass --expect-tiers {len(found)} if that is meant."
        )
    return " | ".join(f"{length:,}" for length in server.lengths) or "none, as expected"


def counters(server: Server) -> str:
    """The metrics before our requests."""
    if (found := server.status("/metrics")) != 200:
        raise CheckError(f"Expected /metrics, found {found}: pass --metrics none if this server does not offer them.")
    server.metrics_before = server.get("/metrics")
    return "/metrics answers"


def short(server: Server, prompt: list[int]) -> str:
    """A short request is served by the first tier."""
    started = time.monotonic()
    with server.open("/v1/completions", server.completion(prompt[:SHORT])) as answer:
        document = json.load(answer)
    return f"{verdict(server, document, (0,), crossings=0)}, {time.monotonic() - started:.1f} s"


def long(server: Server, prompt: list[int]) -> str:
    """A long request, as a stream, is served by the tier of its length."""
    started = time.monotonic()
    body = server.completion(prompt, stream=True, stream_options={"include_usage": True})
    with server.open("/v1/completions", body) as answer:
        stream = events(answer)
        received = [next(stream)]
        first = time.monotonic() - started
        received += stream
    starts_in, may_end_in = tier_of(server, len(prompt)), tier_of(server, len(prompt) + GENERATED)
    told = verdict(server, received[-1], (starts_in, may_end_in), crossings=None)
    return f"{told}, first token after {first:.1f} s, {time.monotonic() - started:.1f} s"


def crossing(server: Server, prompt: list[int]) -> str:
    """A request that outgrows the first tier while it generates ends in the next one."""
    started = time.monotonic()
    over = min(PAST // 2, (server.lengths[1] - server.lengths[0]) // 2)
    body = server.completion(prompt[: server.lengths[0] - GENERATED], GENERATED + over)
    with server.open("/v1/completions", body) as answer:
        document = json.load(answer)
    told = verdict(server, document, (1,), crossings=1)
    again = document["longrope"]["reprefilled_tokens"]
    return f"{told}, {again:,} tokens computed again, {time.monotonic() - started:.1f} s"


def verdict(server: Server, answer: dict[str, Any], tiers: tuple[int, ...], *, crossings: int | None) -> str:
    """Which tier served ``answer``; ``tiers`` are those allowed, ``crossings`` None where any number is."""
    usage = answer.get("usage") or {}
    said = f"{usage.get('prompt_tokens', 0):,} prompt tokens, {usage.get('completion_tokens', 0):,} generated"
    if not usage.get("completion_tokens"):
        raise CheckError(f"Expected generated tokens, found the answer {json.dumps(answer)[:200]}.")
    if not server.has_tiers:
        return said
    told = answer.get("longrope") or {}
    if told.get("tier") not in tiers or crossings not in (None, told["crossings"]):
        wanted = " or ".join(str(tier) for tier in sorted(set(tiers)))
        raise CheckError(f"Expected tier {wanted} and {crossings or 0} crossings, found {told or 'no tier'} ({said}).")
    server.served.append(told["tier_max_length"])
    server.crossed += [told["tier_max_length"]] * told["crossings"]
    return f"tier {told['tier']} ({told['tier_max_length']:,}): {said}"


def metrics(server: Server) -> str:
    """Each tier has its counter."""
    found = counts(server.get("/metrics"), "longrope_requests_total")
    if server.has_tiers and (missing := [f"{length:,}" for length in server.lengths if length not in found]):
        raise CheckError(f"Expected longrope_requests_total of each tier, found none of {', '.join(missing)}.")
    return "a counter for each tier; how they grew was not checked" if server.has_tiers else "/metrics answers"


def grown_metrics(server: Server) -> str:
    """Each tier has its counter, and the counters saw our requests."""
    metrics(server)
    after = server.get("/metrics")
    for name, ours in (("requests", Counter(server.served)), ("crossings", Counter(server.crossed))):
        now, before = (counts(text, f"longrope_{name}_total") for text in (after, server.metrics_before))
        for length, sent in ours.items():
            if (grown := now[length] - before[length]) < sent:
                raise CheckError(
                    f"Expected {sent} more {name} in the tier of {length:,}, found {grown:.0f}: several servers behind "
                    "one URL need --metrics several."
                )
    return f"{len(server.served)} requests and {len(server.crossed)} crossing were counted by tier"


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


def passed(name: str, check: Callable[[], str]) -> bool:
    """Run one check and print its line."""
    try:
        line, ok = check(), True
    except urllib.error.HTTPError as error:
        with error:
            line, ok = f"Expected an answer, found HTTP {error.code} at {error.url}: {error.read(300).decode()}", False
    except CheckError as error:
        line, ok = str(error), False
    except (OSError, http.client.HTTPException) as error:
        line, ok = f"Expected an answer, found none: {error}.", False
    except (KeyError, ValueError, StopIteration, TypeError) as error:
        line, ok = f"Expected the JSON of a longrope server, found something else ({error!r}).", False
    print(f"{'ok' if ok else 'FAILED':<8}{name:<10}{line}", flush=True)
    return ok


def run(server: Server, asked: argparse.Namespace) -> bool:
    """All checks in turn; without health, model and tiers the others would say nothing."""
    first: list[tuple[str, Callable[[], str]]] = [
        ("health", lambda: health(server)),
        ("key", lambda: key(server)),
        ("model", lambda: model(server)),
        ("tiers", lambda: tiers(server, asked.expect_tiers)),
    ]
    if not all(passed(name, check) for name, check in first):
        return False
    past_first = min(server.lengths[0] + PAST, server.limit - GENERATED) if server.has_tiers else server.limit // 2
    tokens = asked.long or past_first
    # New ones each time: nothing of them lies in the prefix cache.
    prompt = random.Random(time.time_ns()).choices(WORDS, k=max([SHORT, tokens, *server.lengths[:1]]))
    checks: list[tuple[str, Callable[[], str]]] = [
        ("short", lambda: short(server, prompt)),
        ("long", lambda: long(server, prompt[:tokens])),
    ]
    if server.has_tiers:
        checks.append(("crossing", lambda: crossing(server, prompt)))
    if asked.metrics != "none":
        end = metrics if asked.metrics == "several" or not server.has_tiers else grown_metrics
        checks = [("counters", lambda: counters(server)), *checks, ("metrics", lambda: end(server))]
    results = [passed(name, check) for name, check in checks]  # each of them, whatever the others say
    return all(results)


def length(text: str) -> int:
    """Tokens named by ``text``, such as 8192, 128k or 1M."""
    match = re.fullmatch(r"(\d+)([km]?)", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a length such as 8192, 128k or 1M, found {text!r}")
    return int(match[1]) * UNITS[match[2]]


def main() -> int:
    """Read the options, run the checks, print the sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the server is, without /v1")
    parser.add_argument(
        "--api-key", default=os.environ.get("VLLM_API_KEY"), help="default: VLLM_API_KEY in the environment"
    )
    parser.add_argument("--model", default="", help="the served name (default: the first of /v1/models)")
    parser.add_argument("--expect-tiers", type=int, default=2, metavar="N", help="fewer is a failure (default: 2)")
    parser.add_argument(
        "--long", type=length, metavar="LENGTH", help="tokens of the long prompt (default: just past tier 0)"
    )
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="for /health, at most (default: 0)")
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="of silence (default: 900)")
    parser.add_argument(
        "--metrics",
        choices=("one", "several", "none"),
        default="one",
        help="one server, whose counters must grow; several behind one URL; or not offered here (default: one)",
    )
    asked = parser.parse_args()
    server = Server(url=asked.url.rstrip("/"), key=asked.api_key or None, timeout=asked.timeout, model=asked.model)
    wait(server, asked.wait)
    ok = run(server, asked)
    print("passed" if ok else "failed")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
