"""How much work waits: the gauge ``longrope_queued_prompt_tokens`` on the server's ``/metrics``.

The prompt tokens of all requests whose first token has not come. vLLM counts these to refuse requests
(``--max-num-queued-tokens``) and does not show them; its metrics count waiting requests, among which one of a million
tokens looks like one of ten. Autoscaling needs the tokens. Remove when vLLM has such a metric.
"""

import asyncio
from typing import Any

from longrope_vllm.plugin.metrics import QUEUED_PROMPT_TOKENS

INTERVAL = 1.0
"""Seconds between two counts: far below what a scrape is apart."""


async def count(engine: Any) -> None:
    """Keep the gauge up to date with the engine client ``engine`` for ever; it stays at 0 before vLLM 0.32."""
    queued_tokens = getattr(engine, "get_num_queued_tokens", None)
    while queued_tokens is not None:
        QUEUED_PROMPT_TOKENS.set(queued_tokens())
        await asyncio.sleep(INTERVAL)
