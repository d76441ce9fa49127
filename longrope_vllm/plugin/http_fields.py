"""Patches of vLLM's OpenAI request and response classes: fields that ask for a tier, and one that tells it.

Installed with the HTTP routes, in API servers of a model with tiers only. A request may hold ``longrope_tier`` and
``longrope_policy``, or name the model by an alias ``NAME-128k`` that the server was given beside ``NAME``. A response,
and the usage chunk of a stream that asked for it, holds ``longrope``. Remove when vLLM hands unknown request fields on
to ``SamplingParams`` and lets a plugin add to a response.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from longrope_vllm.errors import RequestError
from longrope_vllm.lengths import format_length
from longrope_vllm.plugin.output_processor import answered
from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.policy import MAX_TOKENS_FIELD, POLICY_FIELD, TIER_FIELD, Policy, named_tier
from longrope_vllm.plugin.tiers import ServedTiers

FIELD = "longrope"
"""Response field: tier, its length, tokens, crossings, tokens dropped by them."""

LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
"""How the APIs call the number of tokens a client allows."""


def install(served: ServedTiers, policy: Policy, names: Sequence[str]) -> None:
    """Wrap the classes of chat, completions and responses. ``names`` are those the model is served under."""
    from vllm.entrypoints.openai.chat_completion import protocol as chat
    from vllm.entrypoints.openai.completion import protocol as completion
    from vllm.entrypoints.openai.responses import protocol as responses

    aliases = tier_aliases(served, names)
    for request in (chat.ChatCompletionRequest, completion.CompletionRequest, responses.ResponsesRequest):
        wrap_once(request, "to_sampling_params", lambda original: _asking(original, served, policy, aliases))
    for request in (chat.ChatCompletionRequest, completion.CompletionRequest):
        wrap_once(request, "to_beam_search_params", lambda original: _refusing_fields(original, policy, aliases))
    for response in (chat.ChatCompletionResponse, completion.CompletionResponse, responses.ResponsesResponse):
        wrap_once(response, "__init__", _telling)
    for chunk in (chat.ChatCompletionStreamResponse, completion.CompletionStreamResponse):
        wrap_once(chunk, "__init__", _telling_with_usage)


def tier_aliases(served: ServedTiers, names: Sequence[str]) -> dict[str, int]:
    """Served names that name a tier: ``NAME-128k`` beside ``NAME``, to the length of the tier."""
    lengths = {format_length(tier.max_length): tier.max_length for tier in served.tiers}
    pairs = {name: name.rpartition("-") for name in names}
    return {name: lengths[end] for name, (start, _, end) in pairs.items() if start in names and end in lengths}


def _asking(
    original: Callable[..., Any], served: ServedTiers, policy: Policy, aliases: dict[str, int]
) -> Callable[..., Any]:
    def to_sampling_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        params = original(self, *args, **kwargs)
        fields = {**(params.extra_args or {}), **_asked(self, aliases)}
        named_tier(served, policy, fields)  # refused here, a stream has not begun
        params.extra_args = {**fields, MAX_TOKENS_FIELD: sent_limit(self)}
        return params

    return to_sampling_params


def _refusing_fields(original: Callable[..., Any], policy: Policy, aliases: dict[str, int]) -> Callable[..., Any]:
    """Beam search makes its own sampling parameters, which carry no field: what cannot be kept is not accepted."""

    def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked = _asked(self, aliases)
        if asked or policy == "explicit":
            found = ", ".join(asked) or "a server whose requests name their tier"
            raise RequestError(
                f"Expected a beam search to start in the tier of its prompt, which is all it can, found {found}: leave "
                "that out, or do not use beam search."
            )
        return original(self, *args, **kwargs)

    return to_beam_search_params


def _asked(request: Any, aliases: dict[str, int]) -> dict[str, Any]:
    """What ``request`` itself says about its tier, in fields or by the name of the model."""
    own = request.model_extra or {}
    fields = {name: own[name] for name in (TIER_FIELD, POLICY_FIELD) if own.get(name) is not None}
    if request.model in aliases:
        fields.setdefault(TIER_FIELD, aliases[request.model])
    return fields


def sent_limit(request: Any) -> int:
    """Tokens the client allows, 0 when it left that open: the default of the API is no wish of the client.

    vLLM fills that default in before validation, so a client that sends exactly the default counts as sending none.
    """
    known = type(request).model_fields
    sent = [getattr(request, name) for name in LIMITS if name in request.model_fields_set]
    defaults = {known[name].default for name in LIMITS if name in known}
    return next((limit for limit in sent if limit not in defaults and limit is not None), 0)


def _telling(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, **data: Any) -> None:
        status = answered.find(data.get("id", ""))
        original(self, **data if status is None else {**data, FIELD: asdict(status)})

    return init


def _telling_with_usage(original: Callable[..., None]) -> Callable[..., None]:
    telling = _telling(original)

    def init(self: Any, **data: Any) -> None:
        last = data.get("usage") is not None and not data.get("choices")
        (telling if last else original)(self, **data)

    return init
