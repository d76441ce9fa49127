"""Patch of ``init_model_state`` where ``vllm.v1.worker.gpu.model_runner`` imported it (the GPU's default runner).

The V2 runner asks its model state for inputs that override its own; the finished state becomes an instance of a
subclass that answers with shifted positions, always in the same buffer. Installed by the first tiered rotary
embedding. Remove when the V2 runner passes per-request model inputs through.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.row_shift import RowShift, tiers_of
from longrope_vllm.plugin.scheduler import TIER
from longrope_vllm.plugin.tiers import serves_tiers


@cache
def tiered_state(state: Any) -> Any:
    """``state``, a vLLM ``ModelState`` class, with tiers.

    A single-inheritance subclass, so that ``__class__`` of an existing instance can be set to it.
    """

    class TieredModelState(state):  # type: ignore[misc]
        longrope_shift: RowShift
        longrope_request_offsets: torch.Tensor
        """Row offset of each request slot, shape [slots], int64 on the device."""

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            super().add_request(req_index, new_req_data)
            tier = getattr(new_req_data, TIER)
            self.longrope_request_offsets[req_index] = self.longrope_shift.served.row_offsets[tier]

        def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
            inputs = super().prepare_inputs(input_batch, req_states)
            shift, count = self.longrope_shift, input_batch.num_tokens
            starts = input_batch.query_start_loc[: input_batch.num_reqs + 1]
            shift.offsets[:count] = torch.repeat_interleave(
                self.longrope_request_offsets[input_batch.idx_mapping[: input_batch.num_reqs]],
                starts.diff(),
                output_size=count,  # known here, so that the device is not waited for
            )
            return {**inputs, "positions": shift.rows(input_batch.positions)}

        def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
            inputs = super().prepare_dummy_inputs(num_reqs, num_tokens)
            return {**inputs, "positions": self.longrope_shift.buffer[:num_tokens]}

    return TieredModelState


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
        zeros = {"dtype": torch.int64, "device": state.device}
        tiers = tiers_of(model, vllm_config.model_config.max_model_len)
        state.longrope_shift = RowShift(tiers, torch.zeros(state.max_num_tokens, **zeros))
        state.longrope_request_offsets = torch.zeros(state.max_num_reqs, **zeros)
        return state

    return init_model_state
