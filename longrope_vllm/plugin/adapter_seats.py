"""A request that sits a step out keeps the place of its LoRA adapter.

vLLM gives the places, ``max_loras`` of them, to the adapters of the requests in a step, and takes for granted that the
step after it has room for those of all running requests. That holds as long as every running request is in every step.
With lanes, and with requests that wait for their output at the end of a tier, it does not: somebody else would be let
in with another adapter, and the engine would end by an assertion when both are in a step.

So for a step that somebody sits out, waiting requests are out of the queue whose adapter finds no place beside those of
all running ones. Remove when vLLM counts the adapters of all running requests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from longrope_vllm.plugin.progress import AWAITS_INPUT, queues_of


class AdapterSeats:
    """Mixin over a vLLM ``Scheduler``; its methods run in the engine core's thread only."""

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Let vLLM schedule whoever finds a place for its adapter."""
        with self._without_the_unseated():
            return super().schedule(*args, **kwargs)  # type: ignore[misc]

    @contextmanager
    def _without_the_unseated(self) -> Iterator[None]:
        """For one step: requests that find no place out of the queues, and in their old places after it."""
        unseated = self._unseated()
        before = [(queue, list(queue)) for queue in queues_of(self)] if unseated else []
        for queue, _ in before:
            queue.remove_requests(unseated)
        try:
            yield
        finally:
            for queue, order in before:
                left = list(queue)
                known, stay = set(order), unseated.union(left)
                queue.remove_requests(left)
                preempted = [request for request in left if request not in known]
                for request in preempted + [request for request in order if request in stay]:
                    queue.add_request(request)

    def _unseated(self) -> set[Any]:
        """Waiting requests for whose adapter the step has no place; those before them in the queue go first."""
        config, running = self.lora_config, self.running  # type: ignore[attr-defined]
        step = self.current_step + 1  # type: ignore[attr-defined]
        if not config or all(request.next_decode_eligible_step <= step for request in running):
            return set()  # everybody is in the step: vLLM counts them all
        seated = {adapter for request in running if (adapter := _adapter(request))}
        unseated = set()
        for request in (request for queue in queues_of(self) for request in queue):
            adapter = _adapter(request)
            if not adapter or adapter in seated or request.status.name == AWAITS_INPUT:
                continue
            if len(seated) < config.max_loras:
                seated.add(adapter)
            else:
                unseated.add(request)
        return unseated


def _adapter(request: Any) -> int:
    """Number of the adapter of ``request``; 0 for none."""
    return request.lora_request.lora_int_id if request.lora_request else 0
