"""Prometheus metrics by tier, and of the work that waits, on the server's own ``/metrics``.

The label ``tier`` is the length of the tier a request ended in. Kept by the process that answers; several API servers
add up by vLLM's own multiprocess directory.
"""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from longrope_vllm.lengths import format_length
from longrope_vllm.plugin.status import RequestStatus

REQUESTS = Counter("longrope_requests", "Finished requests.", ["tier"])
PROMPT_TOKENS = Counter("longrope_prompt_tokens", "Prompt tokens of finished requests.", ["tier"])
GENERATION_TOKENS = Counter("longrope_generation_tokens", "Generated tokens of finished requests.", ["tier"])
CROSSINGS = Counter("longrope_crossings", "Times a request outgrew a tier and was prefilled again.", ["tier"])
REPREFILLED_TOKENS = Counter("longrope_reprefilled_tokens", "Tokens whose keys and values crossings dropped.", ["tier"])
QUEUED_PROMPT_TOKENS = Gauge(
    "longrope_queued_prompt_tokens",
    "Prompt tokens of requests whose first token has not come.",
    multiprocess_mode="livesum",
)
FIRST_TOKEN_SECONDS = Histogram(
    "longrope_time_to_first_token_seconds",
    "From arrival to the first token; requests of a million tokens take minutes.",
    ["tier"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400),
)


def announce(lengths: list[int]) -> None:
    """Show every tier in force at zero, so that a rate of the first request is a rate."""
    for length in lengths:
        for metric in (REQUESTS, PROMPT_TOKENS, GENERATION_TOKENS, CROSSINGS, REPREFILLED_TOKENS, FIRST_TOKEN_SECONDS):
            metric.labels(format_length(length))


def record(status: RequestStatus, *, prompt: int, generated: int, stats: Any) -> None:
    """Count one finished request. ``stats`` is vLLM's ``RequestStateStats``, None where statistics are off."""
    tier = format_length(status.tier_max_length)
    REQUESTS.labels(tier).inc()
    PROMPT_TOKENS.labels(tier).inc(prompt)
    GENERATION_TOKENS.labels(tier).inc(generated)
    CROSSINGS.labels(tier).inc(status.crossings)
    REPREFILLED_TOKENS.labels(tier).inc(status.reprefilled_tokens)
    if stats is not None:
        FIRST_TOKEN_SECONDS.labels(tier).observe(stats.first_token_latency)
