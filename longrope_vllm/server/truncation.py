"""A layer that tells a client whose prompt was truncated, because it asked for that, what became of it.

A response, and in a stream its first chunk and the one with the usage, then holds
``"longrope_truncation": {"prompt_tokens", "kept", "side"}``: tokens before and after, several prompts of one request
taken together, and the side that was cut off. Nothing is truncated unless a request says ``truncate_prompt_tokens``, or
``"truncation": "auto"`` in the API of responses; vLLM takes its ``null`` for ``auto`` too, here it means ``disabled``.

Where the length to keep is left to the server (``-1``, ``auto``), vLLM fills the whole window, which it then refuses if
no ``max_tokens`` was sent, and else leaves one token for the answer. Here there is left what the client sent, or
``ROOM``. vLLM cuts off the beginning unless ``truncation_side`` says otherwise: the template's as well as the text's.
"""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel

from longrope_vllm.plugin.http_fields import sent_limit
from longrope_vllm.server.layers import Api, Handler, Layer
from longrope_vllm.server.prompt_tokens import PromptCounter
from longrope_vllm.server.tokenization import Tokenize, text_of, tokenizing, tokens_of

FIELD = "longrope_truncation"
"""Response field."""

ROOM = 1024
"""Tokens left for the answer, of a window at most a quarter, when a request leaves all of its length to the server."""

Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """What was done to the prompts of one request, in tokens. ``side`` is the one that was cut off."""

    prompt_tokens: int
    kept: int
    side: Side


def layer(prompts: PromptCounter) -> Layer:
    """Report what is truncated on the server whose prompts ``prompts`` counts; see the module."""

    def around(api: Api, handler: Handler) -> Handler:
        async def reporting(request: Any, raw_request: Request) -> Any:
            if api == "responses" and request.truncation is None:
                request.truncation = "disabled"
            if not _asks_for_truncation(request):
                return await handler(request, raw_request)
            watch = _Watch(prompts=prompts, max_tokens=sent_limit(request))
            with tokenizing(watch.truncate):
                result = await handler(request, raw_request)
            return result if watch.found is None else _told(result, asdict(watch.found))

        return reporting

    return around


def _asks_for_truncation(request: Any) -> bool:
    asked = getattr(request, "truncate_prompt_tokens", None) is not None
    return asked or getattr(request, "truncation", None) == "auto"


class _Watch:
    """Sees the prompts of one request before and after; ``found`` is None as long as nothing was cut off."""

    def __init__(self, *, prompts: PromptCounter, max_tokens: int) -> None:
        self._prompts = prompts
        self._max_tokens = max_tokens
        self.found: Truncation | None = None

    async def truncate(self, tokenize: Tokenize, prompts: Sequence[Any], params: Any) -> Sequence[Any]:
        """Let vLLM tokenize and truncate, count what it has cut."""
        if params.truncate_prompt_tokens is None:
            return await tokenize(prompts, params)
        params = self._decided(params)
        before = [(text_of(prompt), tokens_of(prompt) or 0) for prompt in prompts]
        tokenized = await tokenize(prompts, params)
        kept = [tokens_of(prompt) or 0 for prompt in tokenized]
        whole = []
        for (text, tokens), left in zip(before, kept, strict=True):
            if left < params.truncate_prompt_tokens:
                whole.append(left)
            else:
                whole.append(tokens if text is None else await self._prompts.count_text(text, params))
        if sum(whole) > sum(kept):
            side = params.truncation_side or self._prompts.tokenizer.truncation_side
            self.found = Truncation(prompt_tokens=sum(whole), kept=sum(kept), side=side)
        return tokenized

    def _decided(self, params: Any) -> Any:
        """vLLM's parameters with the length to keep, where a request leaves it to the server."""
        if params.truncate_prompt_tokens >= 0 or params.max_total_tokens is None:
            return params
        limit = params.max_total_tokens
        room = self._max_tokens or min(ROOM, limit // 4)
        return replace(params, truncate_prompt_tokens=max(1, limit - room))


def _told(result: Any, report: dict[str, Any]) -> Any:
    """``result`` with the report in it: a response of vLLM, a stream of one, or an error, which stays as it is."""
    if isinstance(result, AsyncGenerator):
        return _stream_told(result, report)
    return _response_told(result, report)


def _response_told(response: Any, report: dict[str, Any]) -> Any:
    if isinstance(response, BaseModel) and "usage" in type(response).model_fields:
        setattr(response, FIELD, report)
    return response


async def _stream_told(stream: AsyncGenerator[Any, None], report: dict[str, Any]) -> AsyncGenerator[Any, None]:
    first = True
    async with aclosing(stream):
        async for event in stream:
            if not isinstance(event, str):
                _response_told(getattr(event, "response", None), report)
                yield event
            elif event.startswith("data: {") and (first or '"choices":[]' in event):
                first = False
                yield _chunk_told(event, report)
            else:
                yield event


def _chunk_told(event: str, report: dict[str, Any]) -> str:
    chunk = json.loads(event.removeprefix("data: "))
    if "choices" not in chunk:
        return event  # an error
    return f"data: {json.dumps({**chunk, FIELD: report}, ensure_ascii=False, separators=(',', ':'))}\n\n"
