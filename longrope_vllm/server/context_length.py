"""A layer that refuses what does not fit into the model's context, with the numbers.

HTTP 400, code ``context_length_exceeded``, and beside the message ``prompt_tokens``, ``max_tokens`` (only if the client
sent it) and ``limit``. vLLM stops counting one token past its limit or refuses by characters; here the prompt is
counted to its end. Past ``COUNTED`` characters it is not, and ``prompt_tokens_at_least`` stands in its place.

vLLM lowers ``max_tokens`` without a word to what the prompt leaves. Here a client that sent it is refused when prompt
and ``max_tokens`` together do not fit, as by OpenAI; one that left it out gets whatever room there is.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from vllm.exceptions import VLLMValidationError

from longrope_vllm.plugin.http_fields import LIMITS, sent_limit
from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.layers import Api, Handler, Layer
from longrope_vllm.server.prompt_tokens import TOO_LONG, PromptCounter
from longrope_vllm.server.text_tokens import COUNTED
from longrope_vllm.server.tokenization import Tokenize, text_of, tokenizing, tokens_of

PROMPTS: dict[Api, str] = {"chat": "messages", "completions": "prompt", "responses": "input"}
"""The field of each API that holds the prompt."""

_VLLM_REFUSAL = re.compile(r"Input length \((\d+)\) exceeds model's maximum context length")
"""What vLLM says of prompts that do not come by its tokenization, or that images make longer."""


def layer(prompts: PromptCounter) -> Layer:
    """Refuse by the window of the server whose prompts ``prompts`` counts; see the module."""

    def around(api: Api, handler: Handler) -> Handler:
        async def within_context(request: Any, raw_request: Request) -> Any:
            window = _Window(api=api, prompts=prompts, max_tokens=sent_limit(request))
            try:
                with tokenizing(window.admit):
                    return await handler(request, raw_request)
            except (VLLMValidationError, ValueError) as error:
                refused = await window.refusal(request, error)
                if refused is None:
                    raise
                raise refused from error

        return within_context

    return around


class _Window:
    """The context of the server and what one request wants of it. ``max_tokens`` is 0 if the client sent none."""

    def __init__(self, *, api: Api, prompts: PromptCounter, max_tokens: int) -> None:
        self._api = api
        self._prompts = prompts
        self._max_tokens = max_tokens

    async def admit(self, tokenize: Tokenize, prompts: Sequence[Any], params: Any) -> Sequence[Any]:
        """Tokenize, then raise ``ApiError`` unless each prompt leaves room for what the client asked, or one token."""
        if params.max_total_tokens is None:
            return await tokenize(prompts, params)
        texts = [text_of(prompt) for prompt in prompts]  # vLLM may shorten them in place
        try:
            tokenized = await tokenize(prompts, params)
        except VLLMValidationError as error:
            if error.parameter not in TOO_LONG:
                raise
            raise await self._too_long(prompts, texts, params) from error
        longest = max((tokens_of(prompt) or 0 for prompt in tokenized), default=0)
        if longest + max(1, self._max_tokens) > self._prompts.limit:
            raise self._exceeded(prompt_tokens=longest)
        return tokenized

    async def _too_long(self, prompts: Sequence[Any], texts: Sequence[str | None], params: Any) -> ApiError:
        """The refusal of ``prompts``, the longest of which vLLM's limit does not hold."""
        longest = max((len(text) for text in texts if text is not None), default=0)
        if longest > COUNTED:
            return self._exceeded(at_least=math.ceil(longest / self._prompts.tokenizer.max_chars_per_token))
        found = [
            await self._prompts.count_text(text, params) if text is not None else tokens_of(prompt) or 0
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        return self._exceeded(prompt_tokens=max(found))

    async def refusal(self, request: Any, error: Exception) -> ApiError | None:
        """What ``error`` is in our form, if vLLM refuses by length where no prompt has come by; None otherwise."""
        stated = _VLLM_REFUSAL.search(str(error))
        if stated:
            return self._exceeded(prompt_tokens=int(stated[1]))
        if not isinstance(error, VLLMValidationError) or not isinstance(error.value, int):
            return None
        if error.parameter in TOO_LONG:
            return self._exceeded(prompt_tokens=error.value)
        if error.parameter in LIMITS and error.value > self._prompts.limit:
            prompt_tokens = await self._prompts.count(self._api, request)
            return self._exceeded(prompt_tokens=prompt_tokens) if isinstance(prompt_tokens, int) else None
        return None

    def _exceeded(self, *, prompt_tokens: int | None = None, at_least: int | None = None) -> ApiError:
        limit = self._prompts.limit
        field = "max_output_tokens" if self._api == "responses" else "max_tokens"
        found = f"{prompt_tokens}" if at_least is None else f"at least {at_least}"
        wanted = f" and {self._max_tokens} in {field}" if self._max_tokens else ""
        remedy = f"shorten the prompt or lower {field}" if self._max_tokens else "shorten the prompt"
        error = ApiError(
            f"This model's maximum context length is {limit} tokens of prompt and answer together, found {found} in "
            f"the prompt{wanted}: {remedy}.",
            status=400,
            code="context_length_exceeded",
            param=PROMPTS[self._api],
            limit=limit,
        )
        numbers = {
            "prompt_tokens": prompt_tokens,
            "prompt_tokens_at_least": at_least,
            "max_tokens": self._max_tokens or None,
        }
        error.body.update({name: number for name, number in numbers.items() if number is not None})
        return error
