"""Patch of ``init_model_state`` where ``vllm.v1.worker.gpu.model_runner`` imported it (the GPU's default runner).

The V2 runner has its model state prepare what the model needs for a step; the finished state becomes an instance of a
subclass that also tells the model's ``StepRows`` the tier of every token. Installed when a model with tiers is loaded.
Remove when the V2 runner passes per-request model inputs through.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.scheduler import TIER, no_tier
from longrope_vllm.plugin.step_rows import StepRows, steps_of
from longrope_vllm.plugin.tiers import serves_tiers

_OF_THE_WORKER = ("_warmup_", "_v2_mixed_warmup_")
"""How ids begin in ``vllm.v1.worker.gpu.warmup``, which makes requests without a scheduler."""


@cache
def tiered_state(state: Any) -> Any:
    """``state``, a vLLM ``ModelState`` class, with tiers.

    A single-inheritance subclass, so that ``__class__`` of an existing instance can be set to it.
    """

    class TieredModelState(state):  # type: ignore[misc]
        longrope_steps: StepRows
        longrope_request_offsets: torch.Tensor
        """Where the tier of each request slot begins in the table, shape [slots], int64 on the device."""

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            super().add_request(req_index, new_req_data)
            tier = _tier_of(new_req_data)
            self.longrope_request_offsets[req_index] = self.longrope_steps.served.row_offsets[tier]

        def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
            inputs: dict[str, Any] = super().prepare_inputs(input_batch, req_states)
            count = input_batch.num_tokens
            starts = input_batch.query_start_loc[: input_batch.num_reqs + 1]
            self.longrope_steps.offsets[:count] = torch.repeat_interleave(
                self.longrope_request_offsets[input_batch.idx_mapping[: input_batch.num_reqs]],
                starts.diff(),
                output_size=count,  # known here, so that the device is not waited for
            )
            return inputs

    return TieredModelState


def _tier_of(new: Any) -> int:
    """The tier that the scheduler chose; what the worker asks itself to warm its kernels up is of the longest one."""
    tier: int | None = getattr(new, TIER, None)
    if tier is None and not new.req_id.startswith(_OF_THE_WORKER):
        raise UnsupportedError(no_tier(new.req_id))
    return -1 if tier is None else tier


def install() -> None:
    """Wrap ``init_model_state`` in the runner's own namespace."""
    from vllm.v1.worker.gpu import model_runner

    wrap_once(model_runner, "init_model_state", _with_tiers)


def _with_tiers(original: Callable[..., Any]) -> Callable[..., Any]:
    def init_model_state(vllm_config: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        state = original(vllm_config, model, *args, **kwargs)
        if not serves_tiers(vllm_config):
            return state  # another model in the same process
        state_class: Any = type(state)
        state.__class__ = tiered_state(state_class)
        state.longrope_steps = steps_of(model, vllm_config.model_config.max_model_len)
        state.longrope_request_offsets = torch.zeros(state.max_num_reqs, dtype=torch.int64, device=state.device)
        return state

    return init_model_state
