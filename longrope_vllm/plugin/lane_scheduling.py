"""The scheduler of two lanes: prefills of one lane in a step, and a long prompt's part of it bounded by time.

vLLM's own knobs do it, set for one step: ``long_prefill_token_threshold`` and ``max_num_scheduled_tokens`` bound the
chunk, ``next_decode_eligible_step`` makes a running request sit the step out, and waiting requests of the other lane
are out of the queue meanwhile. The rest of ``schedule`` is vLLM's. What is decided, and the bounds, are in ``lanes``.

Set once, the knobs cannot do it. A threshold cuts short prompts as well; it does not hold for a request that is alone,
for whose step the next one then waits; and it counts tokens, of which the last of a million cost many times the first.
vLLM's priorities serve short requests first by dropping what a long one has computed.
"""

import logging
import time
from collections import deque
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from longrope_vllm.plugin.lanes import LEAST_CHUNK, Chunk, Lane, Turns
from longrope_vllm.plugin.progress import AWAITS_INPUT, queues_of
from longrope_vllm.plugin.settings import server_settings

logger = logging.getLogger("vllm.longrope")

LONG = 4096
"""Tokens to prefill past which a request is long: this, or what one step may hold if that is more."""
IN_FLIGHT = 64
"""More steps than any engine has under way."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A step that is under way; ``given`` holds the tokens of its lane's prefills."""

    output: Any
    begun: float
    lane: Lane
    contested: bool
    given: dict[str, int]


def long_past(vllm_config: Any) -> int | None:
    """Tokens past which a request is in the long lane; None where there are no lanes.

    That is where the server says so, under a priority policy, which is the operator's own order, and where prompts or
    images may not be split.
    """
    scheduler = vllm_config.scheduler_config
    whole = not scheduler.enable_chunked_prefill or scheduler.disable_chunked_mm_input
    if server_settings(vllm_config).lanes == "off" or scheduler.policy != "fcfs" or whole:
        return None
    return int(scheduler.long_prefill_token_threshold) or max(LONG, scheduler.max_num_batched_tokens)


class LaneScheduling:
    """Mixin over a vLLM ``Scheduler``; its methods run in the engine core's thread only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.vllm_config  # type: ignore[attr-defined]
        self._long_past = long_past(config)
        self._long: dict[str, Any] = {}
        self._turns = Turns()
        wait = server_settings(config).short_wait
        self._chunk = Chunk(wait / config.max_concurrent_batches)
        self._steps: deque[Step] = deque(maxlen=IN_FLIGHT)
        self._ended = 0.0
        if self._long_past is not None:
            logger.info("longrope: long past %d tokens; short requests wait %s s for them", self._long_past, wait)

    def add_request(self, request: Any) -> None:
        """Queue a request in its lane."""
        super().add_request(request)  # type: ignore[misc]
        # Another part of a streaming session comes as a request of its own, which only lends what it holds.
        self._choose_lane(self.requests.get(request.request_id, request))  # type: ignore[attr-defined]
        self._turns.changed()

    def _free_request(self, *args: Any, **kwargs: Any) -> Any:
        self._turns.changed()
        return super()._free_request(*args, **kwargs)  # type: ignore[misc]

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)  # type: ignore[misc]
        self._choose_lane(request)  # its prefill is longer by what it has generated

    def _choose_lane(self, request: Any) -> None:
        if self._long_past is not None and request.num_tokens - request.num_computed_tokens > self._long_past:
            if not self._long:
                self._turns = Turns()
            self._long[request.request_id] = request

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Let vLLM schedule the prefills of one lane, and whatever generates."""
        self._long = {name: request for name, request in self._long.items() if self._is_in_prefill(name, request)}
        if not self._long:
            return super().schedule(*args, **kwargs)  # type: ignore[misc]
        now = time.monotonic()
        queued = chain.from_iterable(queues_of(self))
        waiting = {request.request_id for request in queued if request.status.name != AWAITS_INPUT} - self._long.keys()
        running = {request.request_id for request in self.running if request.is_prefill_chunk} - self._long.keys()  # type: ignore[attr-defined]
        shut = waiting if self._turns.shut(now) else set()
        able = running | (waiting - shut)
        lane = self._turns.next(short=bool(able), long=True)
        if lane == "long":
            with self._without(waiting | running), self._bounded(waiting | running, shared=bool(able)):
                output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        else:
            with self._without(self._long.keys() | shut):
                output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        of_lane: Container[str] = self._long if lane == "long" else able
        given = {name: tokens for name, tokens in output.num_scheduled_tokens.items() if name in of_lane}
        self._turns.tried(lane, now, used=bool(given))
        self._steps.append(Step(output=output, begun=now, lane=lane, contested=bool(able), given=given))
        return output

    def _is_in_prefill(self, name: str, request: Any) -> bool:
        known = self.requests.get(name) is request  # type: ignore[attr-defined]
        if not known or request.status.name == AWAITS_INPUT:
            return False
        return request.status.name != "RUNNING" or bool(request.is_prefill_chunk)

    @contextmanager
    def _without(self, names: Container[str]) -> Iterator[None]:
        """For one step: requests out of the queue, if they wait in it, and not looked at, if they run."""
        # Whoever finds no memory takes it from the end of the list, and a long prefill is the dearest to lose.
        self.running.sort(key=lambda request: request.request_id not in self._long)  # type: ignore[attr-defined]
        for request in self.running:  # type: ignore[attr-defined]
            if request.request_id in names:
                after_this = self.current_step + 2  # type: ignore[attr-defined]
                request.next_decode_eligible_step = max(request.next_decode_eligible_step, after_this)
        out = [(queue, [request for request in queue if request.request_id in names]) for queue in queues_of(self)]
        for queue, requests in out:
            queue.remove_requests(requests)
        try:
            yield
        finally:
            for queue, requests in out:
                for request in requests:
                    queue.add_request(request)

    @contextmanager
    def _bounded(self, prefills: Container[str], *, shared: bool) -> Iterator[None]:
        """For one step: the first long prefill gets its chunk, and what generates its tokens; nobody else any."""
        config = self.scheduler_config  # type: ignore[attr-defined]
        room, threshold = self.max_num_scheduled_tokens, config.long_prefill_token_threshold  # type: ignore[has-type]
        adaptive = getattr(self, "adaptive_long_prefill_threshold", False)
        generating = sum(
            max(0, request.num_tokens_with_spec + request.num_output_placeholders - request.num_computed_tokens)
            for request in self.running  # type: ignore[attr-defined]
            if request.request_id not in prefills and request.request_id not in self._long
        )
        chunk = min(self._chunk.tokens(self._next_long()), max(LEAST_CHUNK, room - generating))
        if shared and threshold:
            chunk = min(chunk, threshold)
        self.max_num_scheduled_tokens = min(room, chunk + generating)
        config.long_prefill_token_threshold = chunk
        self.adaptive_long_prefill_threshold = False  # it would raise the threshold to a share of the whole step
        try:
            yield
        finally:
            self.max_num_scheduled_tokens, config.long_prefill_token_threshold = room, threshold
            self.adaptive_long_prefill_threshold = adaptive

    def _next_long(self) -> str:
        """The long request that vLLM will take first."""
        known = chain(self.running, *queues_of(self))  # type: ignore[attr-defined]
        names = (request.request_id for request in known if request.request_id in self._long)
        return next(names, next(iter(self._long)))

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """Count what the step took."""
        now = time.monotonic()
        step = next((step for step in self._steps if step.output is scheduler_output), None)
        if step is not None:
            self._steps.remove(step)
            seconds = now - max(step.begun, self._ended)  # steps overlap: one is decided while another runs
            self._turns.served(step.lane, seconds, contested=step.contested)
            if step.lane == "long" and step.given:
                self._chunk.measured(next(iter(step.given)), sum(step.given.values()), seconds)
        self._ended = now
        return super().update_from_output(scheduler_output, *args, **kwargs)  # type: ignore[misc]
