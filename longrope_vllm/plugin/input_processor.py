"""Patch of ``vllm.v1.engine.input_processor.InputProcessor.process_inputs``: the policy, before the engine.

Here the prompt is counted and a refusal still reaches the client, in offline engines and behind HTTP alike. What was
decided travels in ``SamplingParams.extra_args``. Remove when vLLM lets a plugin see a request before it is queued.
"""

from collections.abc import Callable
from typing import Any

from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.policy import MAX_TOKENS_FIELD, START_FIELD, start_length
from longrope_vllm.plugin.settings import server_settings
from longrope_vllm.plugin.tiers import ServedTiers, serves_tiers


def install() -> None:
    """Wrap ``process_inputs``; an engine of one tier, or of another model, passes straight through."""
    from vllm.v1.engine.input_processor import InputProcessor

    wrap_once(InputProcessor, "process_inputs", _with_policy)


def _with_policy(original: Callable[..., Any]) -> Callable[..., Any]:
    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, request_id, prompt, params, *args, **kwargs)
        if serves_tiers(self.vllm_config) and request.sampling_params is not None:
            _decide(self, request, params.max_tokens)
        return request

    return process_inputs


def _decide(processor: Any, request: Any, max_tokens: int | None) -> None:
    """Write the start length into the request, whose sampling parameters are its own copy by now."""
    longest = processor.vllm_config.model_config.max_model_len
    tokens = request.prompt_token_ids if request.prompt_embeds is None else request.prompt_embeds
    sent = request.sampling_params.extra_args or {}
    fields = {name: value for name, value in sent.items() if name != START_FIELD}  # ours alone, no client's
    start = start_length(
        _tiers(processor, longest),
        server_settings(processor.vllm_config).policy,
        fields=fields,
        prompt=len(tokens),
        max_tokens=_sent_max_tokens(fields, max_tokens, longest - len(tokens)),
    )
    if start > len(tokens):
        fields[START_FIELD] = start
    request.sampling_params.extra_args = fields or None


def _tiers(processor: Any, longest: int) -> ServedTiers:
    """The tiers in force, read once; vLLM may shorten ``max_model_len`` after the start."""
    known: ServedTiers | None = getattr(processor, "longrope_tiers", None)
    if known is None or known.max_length(known.last) != longest:
        known = ServedTiers.from_vllm_config(processor.vllm_config)
        assert known is not None, "only an engine with tiers is marked"
        processor.longrope_tiers = known
    return known


def _sent_max_tokens(fields: dict[str, Any], max_tokens: int | None, room: int) -> int | None:
    """``max_tokens`` if its client sent it: servers fill in all the room there is when it did not."""
    known = fields.get(MAX_TOKENS_FIELD)
    if isinstance(known, int):
        return known or None
    return None if max_tokens is None or max_tokens >= room else max_tokens
