"""How many prompt tokens a request has, whatever fits: rendered by vLLM itself, counted without the length limit.

In: a request of one of the three APIs. Out: exactly what ``usage`` would call its prompt tokens if it were served.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vllm.exceptions import VLLMValidationError

from longrope_vllm.plugin.http_fields import LIMITS
from longrope_vllm.server.layers import Api
from longrope_vllm.server.text_tokens import TextCounter
from longrope_vllm.server.tokenization import Tokenize, text_of, tokenizing, tokens_of

TOO_LONG = ("input_text", "input_tokens")
"""Parameters that vLLM's refusals of long prompts name."""

_NO_LIMITS = {
    **dict.fromkeys(LIMITS),
    "truncate_prompt_tokens": None,
    "truncation_side": None,
    "truncation": "disabled",
}


class PromptCounter:
    """Counts for one app; ``state`` is the app's, with vLLM's renderer in it."""

    def __init__(self, state: Any) -> None:
        self._state = state
        self._renderer = state.online_renderer.renderer
        self._texts = TextCounter(self._renderer.tokenizer)

    @property
    def limit(self) -> int:
        """Tokens of the longest sequence that this server takes, prompt and answer together."""
        longest: int = self._state.vllm_config.model_config.max_model_len
        return longest

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that prompts are counted by."""
        return self._renderer.tokenizer

    async def count_text(self, text: str, params: Any) -> int:
        """Number of tokens of a prompt's ``text``, by vLLM's parameters for its tokenization."""
        lowered = text.lower() if params.do_lower_case else text
        return await self._texts.count(lowered, special_tokens=params.add_special_tokens)

    async def count(self, api: Api, request: Any) -> int | Any:
        """Prompt tokens of ``request``, all of its prompts together, or vLLM's ``ErrorResponse`` if it has none.

        Limits and truncation that it states do not matter. Raises what vLLM raises for what it cannot render.
        """
        counted: list[int] = []

        async def counting(tokenize: Tokenize, prompts: Sequence[Any], params: Any) -> Sequence[Any]:
            texts = [text_of(prompt) for prompt in prompts]
            for text in texts:
                counted.append(0 if text is None else await self.count_text(text, params))
            others = [prompt for prompt, text in zip(prompts, texts, strict=True) if text is None]
            return await tokenize(others, replace(params, max_total_tokens=None)) if others else [_nothing()]

        try:
            with tokenizing(counting):
                rendered = await self._render(api, _unlimited(request))
        except VLLMValidationError as error:
            if error.parameter not in TOO_LONG or not isinstance(error.value, int):
                raise
            return error.value  # a renderer that makes token ids at once has counted them all
        if not isinstance(rendered, list):
            return rendered
        return sum(counted) + sum(tokens_of(prompt) or 0 for prompt in rendered)

    async def _render(self, api: Api, request: Any) -> Any:
        """vLLM's engine inputs in a list, or its ``ErrorResponse``."""
        renderer = self._state.online_renderer
        if api == "completions":
            return await renderer.render_completion(request, skip_mm_cache=True)
        if api == "chat":
            rendered = await renderer.render_chat(request, skip_mm_cache=True)
            return list(rendered[1]) if isinstance(rendered, tuple) else rendered
        return await self._render_responses(request)

    async def _render_responses(self, request: Any) -> Any:
        """With the stored response that ``request`` goes on from, if it names one."""
        serving = getattr(self._state, "openai_serving_responses", None)
        if serving is None:  # a render-only server
            return _inputs(await self._state.online_renderer.render_responses(request, skip_mm_cache=True))
        previous = None
        if request.previous_response_id is not None:
            previous = serving.response_store.get(request.previous_response_id)
            if previous is None:
                return serving._make_not_found_error(request.previous_response_id)
        if hasattr(serving, "_make_request"):  # vLLM 0.27, before its renderer knew of responses
            return (await serving._make_request(request, previous))[1]
        return _inputs(await serving._render_resolved_response_inputs(request, previous, skip_mm_cache=True))


def _inputs(rendered: Any) -> Any:
    return [rendered.engine_input] if hasattr(rendered, "engine_input") else rendered


def _unlimited(request: Any) -> Any:
    """A copy of ``request`` that neither limits its tokens nor has its prompt truncated."""
    known = type(request).model_fields
    return request.model_copy(update={name: value for name, value in _NO_LIMITS.items() if name in known})


def _nothing() -> Any:
    """A prompt of no tokens, in place of those that were counted."""
    return {"prompt_token_ids": []}
