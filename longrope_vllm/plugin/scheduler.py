"""The scheduler: chooses the tier of each request, moves it to the next one exactly, tells the workers.

A request keeps its tier until its sequence outgrows it. Then its blocks are dropped and prompt and output so far are
prefilled again under the next tier: re-rotating cached keys would not be exact below the first layer. Blocks of
different tiers never share a prefix-cache key.

Patch of ``SchedulerConfig.get_scheduler_cls``: for a longrope checkpoint only, whatever scheduler it returns
(synchronous, asynchronous, a user's own) gets ``AdapterSeats`` and ``LaneScheduling`` mixed in and ``TieredScheduling``
over them. Remove when vLLM has a per-request rope profile.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any

from longrope_vllm.plugin.adapter_seats import AdapterSeats
from longrope_vllm.plugin.lane_scheduling import LaneScheduling
from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.policy import START_FIELD
from longrope_vllm.plugin.status import RequestStatus, ServedRequests, add_engine_method, response_ids, together
from longrope_vllm.plugin.tiers import MARK, ServedTiers

TIER = "longrope_tier"
"""Attribute of ``NewRequestData``: tier index of a request the worker sees for the first time."""
RESUMED_TIERS = "longrope_resumed_tiers"
"""Attribute of ``CachedRequestData``: request id to tier index, for the requests that resume in this step."""

NEWS = "longrope"
"""Key of a request's status in an ``EngineCoreOutput``."""


def no_tier(request_id: str) -> str:
    """What is said of a request without ``TIER``."""
    return (
        f"Expected a rope tier for request {request_id} from the scheduler, found none: the scheduler in use does not "
        "come from SchedulerConfig.get_scheduler_cls."
    )


class TieredScheduling:
    """Mixin over a vLLM ``Scheduler``; its methods run in the engine core's thread only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        served = ServedTiers.from_vllm_config(self.vllm_config)  # type: ignore[attr-defined]
        assert served is not None, "only a longrope checkpoint gets this scheduler"
        self.served_tiers = served
        self.served_requests = ServedRequests()
        self._preempted: set[Any] = set()
        self._untold: dict[str, RequestStatus] = {}
        add_engine_method()

    # -- admission

    def add_request(self, request: Any) -> None:
        """Choose the first tier, by the prompt or a longer one as the policy asked, and give its blocks their key."""
        if request.request_id not in self.requests:  # type: ignore[attr-defined]
            fields = getattr(request.sampling_params, "extra_args", None) or {}
            length = max(request.num_tokens, fields.get(START_FIELD, 0))
            # A streaming session grows while it waits, so it starts in the tier that holds whatever may come.
            tier = self.served_tiers.last if request.resumable else self.served_tiers.index_for(length)
            request.longrope_client_salt = request.cache_salt
            request.longrope_crossings = request.longrope_reprefilled_tokens = 0
            self._set_tier(request, tier)
        super().add_request(request)  # type: ignore[misc]

    def _set_tier(self, request: Any, tier: int) -> None:
        request.longrope_tier = tier
        self._untold[request.request_id] = _status(self.served_tiers, request)
        salt = self.served_tiers.cache_salt(tier, request.longrope_client_salt)
        if salt != request.cache_salt:
            request.cache_salt = salt
            request.block_hashes.clear()  # in place: the list is shared
            request.update_block_hashes()

    # -- crossing

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Move what outgrew its tier, let vLLM schedule, then tell the workers the tiers they need."""
        for request in list(self.running):  # type: ignore[attr-defined]
            self._keep_within_tier(request)
        self._raise_preempted()
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        self._tell_workers(output)
        return output

    def _keep_within_tier(self, request: Any) -> None:
        """Before a step: trim drafts that would cross, hold while output is in flight, cross when it is known."""
        if request.longrope_tier == self.served_tiers.last:
            return
        limit = self.served_tiers.max_length(request.longrope_tier)
        length = request.num_tokens + request.num_output_placeholders
        if length <= limit:
            if length + len(request.spec_token_ids) > limit:
                request.spec_token_ids = request.spec_token_ids[: limit - length]
        elif request.num_output_placeholders:
            # The token in flight was sampled within the tier and may be the last one: skip one step and look again.
            skip_one = self.current_step + 2  # type: ignore[attr-defined]
            request.next_decode_eligible_step = max(request.next_decode_eligible_step, skip_one)
        else:
            self._cross(request)

    def _cross(self, request: Any) -> None:
        """Drop the request's blocks and queue it for a prefill of all its tokens under the next tier."""
        self.running.remove(request)  # type: ignore[attr-defined]
        request.longrope_reprefilled_tokens += request.num_computed_tokens
        self._preempt_request(request, time.monotonic())
        self._raise_tier(request)
        # As in vLLM's own forced preemption: a runner gets the tokens of a resumed request only if it did not run in
        # the step before.
        self.prev_step_scheduled_req_ids.discard(request.request_id)  # type: ignore[attr-defined]

    def _raise_tier(self, request: Any) -> None:
        request.longrope_crossings += 1
        self._set_tier(request, self.served_tiers.index_for(request.num_tokens))

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)  # type: ignore[misc]
        self._preempted.add(request)

    def _raise_preempted(self) -> None:
        """A request preempted for memory may outgrow its tier by output that was in flight: it holds no blocks."""
        for request in list(self._preempted):
            if request.status.name != "PREEMPTED":
                self._preempted.discard(request)
                continue
            limit = self.served_tiers.max_length(request.longrope_tier)
            request.spec_token_ids = request.spec_token_ids[: max(0, limit - request.num_tokens)]
            if request.num_tokens > limit:
                self._raise_tier(request)

    # -- workers and status

    def _tell_workers(self, output: Any) -> None:
        for new in output.scheduled_new_reqs:
            setattr(new, TIER, self.requests[new.req_id].longrope_tier)  # type: ignore[attr-defined]
        cached = output.scheduled_cached_reqs
        if cached.resumed_req_ids:
            tiers = {request_id: self.requests[request_id].longrope_tier for request_id in cached.resumed_req_ids}  # type: ignore[attr-defined]
            setattr(cached, RESUMED_TIERS, tiers)

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request's tier along with its first output, and again when it has crossed.

        In the field of KV connectors, which is free without one: it crosses the process border as it is.
        """
        outputs = super().update_from_output(*args, **kwargs)  # type: ignore[misc]
        for of_client in outputs.values():
            for output in of_client.outputs:
                status = self._untold.pop(output.request_id, None)
                if status is not None:
                    output.kv_transfer_params = {NEWS: asdict(status)}
        if len(self._untold) > len(self.requests):  # type: ignore[attr-defined]
            known = self.requests.keys()  # type: ignore[attr-defined]
            self._untold = {name: status for name, status in self._untold.items() if name in known}
        return outputs

    def longrope_request(self, response_id: str) -> RequestStatus | None:
        """Tier and crossings of a response's requests, running or finished lately; None for an unknown one."""
        running = [
            _status(self.served_tiers, request)
            for known, request in self.requests.items()  # type: ignore[attr-defined]
            if response_id in response_ids(known)
        ]
        finished = self.served_requests.find(response_id)
        found = running + ([] if finished is None else [finished])
        return together(found) if found else None

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self.served_requests.add(request.request_id, _status(self.served_tiers, request))
        return super()._free_request(request, *args, **kwargs)  # type: ignore[misc]


def _status(served: ServedTiers, request: Any) -> RequestStatus:
    return RequestStatus(
        tier=request.longrope_tier,
        tier_max_length=served.max_length(request.longrope_tier),
        tokens=request.num_tokens,
        crossings=request.longrope_crossings,
        reprefilled_tokens=request.longrope_reprefilled_tokens,
    )


@cache
def tiered(scheduler: Any) -> Any:
    """``scheduler`` with tiers and lanes mixed in."""
    return type(f"Tiered{scheduler.__name__}", (TieredScheduling, LaneScheduling, AdapterSeats, scheduler), {})


def install() -> None:
    """Wrap ``SchedulerConfig.get_scheduler_cls``, which only the engine core calls."""
    from vllm.config import SchedulerConfig

    wrap_once(SchedulerConfig, "get_scheduler_cls", _with_tiers)


def _with_tiers(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_scheduler_cls(self: Any) -> Any:
        scheduler = original(self)
        return tiered(scheduler) if getattr(self, MARK, False) else scheduler

    return get_scheduler_cls
