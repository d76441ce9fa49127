"""Patch of ``vllm.v1.worker.gpu_model_runner.GPUModelRunner`` (also the base of the CPU's V1 runner).

Learns each request's tier in ``_update_states``, fills the per-token row offsets after ``_prepare_inputs`` (inside the
runner's own synchronisation of reused host buffers) and shifts the model's positions in a forward pre-hook, which is
in place before the first dummy run, so that captured graphs hold the addition. Installed by the first tiered rotary
embedding. Remove when the V1 runner is gone, or passes per-request model inputs through.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.row_shift import RowShift, tiers_of
from longrope_vllm.plugin.scheduler import RESUMED_TIERS, TIER
from longrope_vllm.plugin.tiers import serves_tiers


class TierTracking:
    """What one V1 runner knows: the tier of each request it holds, and the shift of its model."""

    def __init__(self, runner: Any) -> None:
        model = runner.get_model()
        self.tier_of: dict[str, int] = {}
        self._offsets = runner._make_buffer(runner.max_num_tokens, dtype=torch.int64)  # pinned host and device
        self.shift = RowShift(tiers_of(model, runner.max_model_len), self._offsets.gpu)
        model.register_forward_pre_hook(self._shift_positions, with_kwargs=True)

    def learn(self, scheduler_output: Any) -> None:
        """Forget finished requests, note the tier of new and resumed ones."""
        for request_id in scheduler_output.finished_req_ids:
            self.tier_of.pop(request_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            tier = getattr(new, TIER, None)
            if tier is None:
                raise UnsupportedError(
                    f"Expected a rope tier for request {new.req_id} from the scheduler, found none: the scheduler in "
                    "use does not come from SchedulerConfig.get_scheduler_cls."
                )
            self.tier_of[new.req_id] = tier
        self.tier_of.update(getattr(scheduler_output.scheduled_cached_reqs, RESUMED_TIERS, {}))

    def fill(self, request_ids: list[str], scheduled_tokens: np.ndarray) -> None:
        """Row offset of every scheduled token, in the order of the batch. ``scheduled_tokens`` [requests]."""
        offsets = [self.shift.served.row_offsets[self.tier_of[request_id]] for request_id in request_ids]
        per_token = np.repeat(offsets, scheduled_tokens)
        count = per_token.shape[0]
        self._offsets.np[:count] = per_token
        self._offsets.copy_to_gpu(count)

    def _shift_positions(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "positions": self.shift.rows(kwargs["positions"])}


def install() -> None:
    """Wrap the three methods; a runner that serves tiers gets its ``TierTracking`` at the first call of any of them.

    The patch stays for the process; the runner of another model in it passes straight through.
    """
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    wrap_once(GPUModelRunner, "_dummy_run", _tracking_first)
    wrap_once(GPUModelRunner, "_update_states", _learning_tiers)
    wrap_once(GPUModelRunner, "_prepare_inputs", _filling_offsets)


def _tracking(runner: Any) -> TierTracking:
    if not hasattr(runner, "longrope_tracking"):
        runner.longrope_tracking = TierTracking(runner)
    tracking: TierTracking = runner.longrope_tracking
    return tracking


def _tracking_first(original: Callable[..., Any]) -> Callable[..., Any]:
    def dummy_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if serves_tiers(self.vllm_config):
            _tracking(self)
        return original(self, *args, **kwargs)

    return dummy_run


def _learning_tiers(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_states(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        if serves_tiers(self.vllm_config):
            _tracking(self).learn(scheduler_output)
        return original(self, scheduler_output, *args, **kwargs)

    return update_states


def _filling_offsets(original: Callable[..., Any]) -> Callable[..., Any]:
    def prepare_inputs(self: Any, scheduler_output: Any, num_scheduled_tokens: np.ndarray, *args: Any) -> Any:
        prepared = original(self, scheduler_output, num_scheduled_tokens, *args)
        if serves_tiers(self.vllm_config):
            request_ids = self.input_batch.req_ids[: self.input_batch.num_reqs]
            _tracking(self).fill(request_ids, num_scheduled_tokens)
        return prepared

    return prepare_inputs
