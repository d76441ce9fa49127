"""Ask one server several questions at the same time, through the openai SDK, and time the answers."""

import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from longrope_vllm.extras import require

MAX_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answered request."""

    text: str
    prompt_tokens: int
    first_token: float
    """Seconds from sending the request to its first token."""
    tier: str
    """Length of the tier that served it, or how a server without tiers served it."""


def ask_all(url: str, questions: Sequence[str], *, tiers: bool, report: Callable[[str], None]) -> list[Answer]:
    """Answers in the order of ``questions``, all asked at once; ``report`` is told as they come.

    ``tiers`` says whether the server can be asked which tier served a request.
    """
    openai = require("openai", "demo")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)
    model = client.models.list().data[0].id

    def ask(question: str) -> Answer:
        started = time.monotonic()
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            temperature=0,
            max_tokens=MAX_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
        text, first, prompt_tokens, request_id = "", 0.0, 0, ""
        for chunk in stream:
            request_id = chunk.id
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.monotonic() - started
                text += chunk.choices[0].delta.content
            if chunk.usage:
                prompt_tokens = chunk.usage.prompt_tokens
        report(f"answered {prompt_tokens:,} tokens, first token after {first:.1f} s")
        return Answer(
            text=text.strip(),
            prompt_tokens=prompt_tokens,
            first_token=first,
            tier=_tier(url, request_id) if tiers else "own rope, all lengths",
        )

    with ThreadPoolExecutor(len(questions)) as pool:
        return list(pool.map(ask, questions))


def _tier(url: str, request_id: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/requests/{request_id}", timeout=30) as answer:
        return f"up to {json.load(answer)['longrope']['tier_max_length']:,}"
