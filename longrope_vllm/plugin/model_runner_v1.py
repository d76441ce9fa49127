"""Patch of ``vllm.v1.worker.gpu_model_runner.GPUModelRunner`` (also the base of the CPU's V1 runner).

Learns each request's tier in ``_update_states`` and tells the model's ``StepRows`` the tier of every token after
``_prepare_inputs`` (inside the runner's own synchronisation of reused host buffers). Installed when a model
with tiers is loaded. Remove when the V1 runner is gone, or passes per-request model inputs through.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.scheduler import RESUMED_TIERS, TIER, no_tier
from longrope_vllm.plugin.step_rows import steps_of
from longrope_vllm.plugin.tiers import serves_tiers


class TierTracking:
    """What one V1 runner knows: the tier of each request it holds, and the step rows of its model."""

    def __init__(self, runner: Any) -> None:
        self.tier_of: dict[str, int] = {}
        self.steps = steps_of(runner.get_model(), runner.max_model_len)
        self._host = runner._make_buffer(runner.max_num_tokens, dtype=torch.int64)  # pinned

    def learn(self, scheduler_output: Any) -> None:
        """Forget finished requests, note the tier of new and resumed ones."""
        for request_id in scheduler_output.finished_req_ids:
            self.tier_of.pop(request_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            tier = getattr(new, TIER, None)
            if tier is None:
                raise UnsupportedError(no_tier(new.req_id))
            self.tier_of[new.req_id] = tier
        self.tier_of.update(getattr(scheduler_output.scheduled_cached_reqs, RESUMED_TIERS, {}))

    def fill(self, request_ids: list[str], scheduled_tokens: np.ndarray) -> None:
        """Offset of every scheduled token, in the order of the batch. ``scheduled_tokens`` [requests]."""
        offsets = [self.steps.served.row_offsets[self.tier_of[request_id]] for request_id in request_ids]
        per_token = np.repeat(offsets, scheduled_tokens)
        count = per_token.shape[0]
        self._host.np[:count] = per_token
        self.steps.offsets[:count].copy_(self._host.cpu[:count], non_blocking=True)


def install() -> None:
    """Wrap the two methods; a runner that serves tiers gets its ``TierTracking`` at the first call of either.

    The patch stays for the process; the runner of another model in it passes straight through.
    """
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    wrap_once(GPUModelRunner, "_update_states", _learning_tiers)
    wrap_once(GPUModelRunner, "_prepare_inputs", _filling_offsets)


def _tracking(runner: Any) -> TierTracking:
    if not hasattr(runner, "longrope_tracking"):
        runner.longrope_tracking = TierTracking(runner)
    tracking: TierTracking = runner.longrope_tracking
    return tracking


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
