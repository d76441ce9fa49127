"""Patch of ``vllm.v1.engine.output_processor.OutputProcessor``: tiers by request, in the process that answers.

Reads what the scheduler sends along with outputs, so that responses and metrics can say which tier served a request,
also one that ends by a stop string, which only this process sees. Remove when vLLM lets a plugin send request
statistics from the scheduler to the API server.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from longrope_vllm.plugin import metrics
from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.scheduler import NEWS
from longrope_vllm.plugin.status import RequestStatus, ServedRequests

answered = ServedRequests()
"""Requests that this process finished lately, by the id of their response."""

_STATUS = "longrope_status"
"""Attribute of a ``RequestState``: the last news of its request."""


def install() -> None:
    """Wrap the method that reads the engine's outputs and the one that closes a request's statistics."""
    from vllm.v1.engine.output_processor import OutputProcessor

    wrap_once(OutputProcessor, "process_outputs", _reading_news)
    wrap_once(OutputProcessor, "_update_stats_from_finished", _recording)


def _reading_news(original: Callable[..., Any]) -> Callable[..., Any]:
    def process_outputs(self: Any, engine_core_outputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        for output in engine_core_outputs:
            if output.kv_transfer_params and NEWS in output.kv_transfer_params:
                news = RequestStatus(**output.kv_transfer_params[NEWS])
                output.kv_transfer_params = None
                state = self.request_states.get(output.request_id)  # None: aborted meanwhile
                if state is not None:
                    setattr(state, _STATUS, news)
        return original(self, engine_core_outputs, *args, **kwargs)

    return process_outputs


def _recording(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_stats_from_finished(self: Any, req_state: Any, *args: Any, **kwargs: Any) -> Any:
        news: RequestStatus | None = getattr(req_state, _STATUS, None)
        if news is not None:
            generated = 0 if req_state.detokenizer is None else req_state.detokenizer.num_output_tokens()
            status = replace(news, tokens=req_state.prompt_len + generated)
            answered.add(req_state.request_id, status)
            metrics.record(status, prompt=req_state.prompt_len, generated=generated, stats=req_state.stats)
        return original(self, req_state, *args, **kwargs)

    return update_stats_from_finished
