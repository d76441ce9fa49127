"""What is asked of the server, a function a line of the report: its answer is the line's text.

Each raises ``CheckError``, or ``OSError``, ``HTTPException`` or ``ValueError`` where the answer is none.
"""

import json
import time
from collections import Counter
from typing import Any

from smoke_server import GENERATED, CheckError, Server, counts, events, tier_of

SHORT = 16
"""Tokens of the short prompt."""
PAST = 64
"""Tokens by which the long request exceeds the first tier; half of that is how far the crossing one goes over it."""


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


def long(server: Server, prompt: list[int], asked: int) -> str:
    """A long request, as a stream, is served by the tier of its length; ``asked`` is that of --long, or 0."""
    if asked > server.limit:
        raise CheckError(f"Expected --long of at most {server.limit:,} tokens, which are served here, found {asked:,}.")
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
