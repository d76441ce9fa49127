"""Watches every KV block of a running engine: whose keys and values it holds, and who reads them.

The keys and values at a position follow from the tier and from all tokens up to it. So for every slot of every block
the watch keeps who wrote it and in which tier, and at every step holds that against who is about to read it; the
tier of a request it takes from the boundaries and its length, not from the plugin. What is found wrong is collected in
``violations``, what happened is counted in ``seen``.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

MOST = 5
"""Violations of a kind that are kept: one mistake makes many."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Who wrote a slot, and in which tier."""

    request: Any
    tier: int


class BlockWatch:
    """Wraps methods of one scheduler and its cache; ``boundaries`` are the longest sequences of the tiers in force."""

    def __init__(self, scheduler: Any, boundaries: list[int]) -> None:
        self.scheduler = scheduler
        self.boundaries = boundaries
        self.pool = scheduler.kv_cache_manager.block_pool
        self.block_size: int = scheduler.block_size
        self.violations: dict[str, list[str]] = defaultdict(list)
        self.seen: Counter[str] = Counter()
        self.start_of: dict[str, int] = {}
        """Length by which each request got its first tier."""
        self.tier_in_force: dict[str, int] = {}
        """Tier of each request in the step that is scheduled or was scheduled last."""
        self._tier_before: dict[str, int] = {}
        self._slots: dict[int, list[Written | None]] = defaultdict(lambda: [None] * self.block_size)
        self._tier_of_hash: dict[Any, int] = {}
        self._known_equal: set[tuple[str, str, int]] = set()
        self._wrap()

    def tier(self, request: Any, *, ahead: int = 0) -> int:
        """Index of the tier of ``request`` as long as it is, and ``ahead`` tokens more."""
        return bisect_left(self.boundaries, max(request.num_tokens + ahead, self.start_of[request.request_id]))

    def left_over(self) -> dict[str, int]:
        """What is not as in a fresh scheduler, by name; all zero when every request is gone."""
        held = self.pool.num_gpu_blocks - 1 - self.pool.get_num_free_blocks()  # one is the null block
        names = ("requests", "running", "waiting", "kv_holding_waiting", "deferred_waiting", "deferred_frees")
        found = {
            name: len(getattr(self.scheduler, name)) for name in (*names, "_inflight_prefills", "_preempted", "_untold")
        }
        tables = [manager.req_to_blocks for manager in self._managers()]
        return found | {"blocks held": held, "block tables": sum(map(len, tables))}

    # -- hooks

    def _wrap(self) -> None:
        scheduler = self.scheduler
        schedule, preempt, make_cached = scheduler.schedule, scheduler._preempt_request, self.pool.cache_full_blocks

        def watched_schedule(*args: Any, **kwargs: Any) -> Any:
            self._tier_before = self.tier_in_force
            self.tier_in_force = {name: self.tier(known) for name, known in scheduler.requests.items()}
            output = schedule(*args, **kwargs)
            self._look(output)
            return output

        def watched_preempt(request: Any, *args: Any, **kwargs: Any) -> Any:
            outgrown = self.tier(request) > self._tier_before[request.request_id]
            reset = kwargs.get("drop_stale_output", False)
            self.seen["resets" if reset else "crossings" if outgrown else "preemptions"] += 1
            return preempt(request, *args, **kwargs)

        def watched_make_cached(request: Any, blocks: Any, *args: Any, **kwargs: Any) -> Any:
            done = make_cached(request, blocks, *args, **kwargs)
            for block in blocks:
                if block.block_hash is not None:
                    self._check_hash(request, block)
            return done

        scheduler.schedule, scheduler._preempt_request = watched_schedule, watched_preempt
        self.pool.cache_full_blocks = watched_make_cached

    # -- checks

    def _look(self, output: Any) -> None:
        self.seen["steps"] += 1
        self._check_holders(self._holders())
        begun = {new.req_id for new in output.scheduled_new_reqs} | output.scheduled_cached_reqs.resumed_req_ids
        for name, count in output.num_scheduled_tokens.items():
            request = self.scheduler.requests[name]
            computed = request.num_computed_tokens - count
            if computed and name in begun:
                self._note_reuse(request)
            self._check_reads(request, computed)
            self._note_writes(request, computed, request.num_computed_tokens)

    def _note_reuse(self, request: Any) -> None:
        crossed = self.tier(request) > self.tier(request, ahead=-request.num_output_tokens)
        kind = "after a crossing" if crossed else "after a preemption" if request.num_preemptions else "when new"
        self.seen[f"prefix found {kind}"] += 1

    def _managers(self) -> Any:
        return self.scheduler.kv_cache_manager.coordinator.single_type_managers

    def _holders(self) -> dict[int, set[str]]:
        holders = defaultdict(set)
        for manager in self._managers():
            for name, blocks in manager.req_to_blocks.items():
                for block in blocks:
                    if not block.is_null:
                        holders[block.block_id].add(name)
        return holders

    def _check_holders(self, holders: dict[int, set[str]]) -> None:
        """Every block is counted as often as it is held, the rest is free, and holders are of one tier."""
        for block_id, names in holders.items():
            if self.pool.blocks[block_id].ref_cnt != len(names):
                count = self.pool.blocks[block_id].ref_cnt
                self._violated("miscounted", f"block {block_id} counts {count}, held by {names}")
            if len(names) > 1:
                self.seen["shared blocks, summed over steps"] += 1
                if len({self.tier_in_force[name] for name in names}) > 1:
                    self._violated("held across tiers", f"block {block_id} by {names}")
        deferred = sum(len(blocks) for _, blocks in self.scheduler.deferred_frees)
        if len(holders) + deferred + self.pool.get_num_free_blocks() != self.pool.num_gpu_blocks - 1:
            self._violated("lost", f"{len(holders)} blocks held, {self.pool.get_num_free_blocks()} free")

    def _check_reads(self, request: Any, computed: int) -> None:
        """What ``request`` finds in its blocks was computed in its tier, from its tokens."""
        tier = self.tier_in_force[request.request_id]
        for manager in self._managers():
            for index, block in enumerate(manager.req_to_blocks[request.request_id]):
                held = max(0, min(self.block_size, computed - index * self.block_size))
                if block.is_null or not held:
                    continue
                for written in set(self._slots[block.block_id][:held]):
                    end = index * self.block_size + held
                    if not self._fits(request, tier, written, end):
                        self._violated("read wrongly", f"{request.request_id} in tier {tier} reads {written}")

    def _fits(self, request: Any, tier: int, written: Written | None, end: int) -> bool:
        if written is None or written.tier != tier:
            return False
        if written.request is request:
            return True
        known = (request.request_id, written.request.request_id, end)
        if known not in self._known_equal:  # tokens are only ever appended: compared once
            if written.request.all_token_ids[:end] != request.all_token_ids[:end]:
                return False
            self._known_equal.add(known)
        return True

    def _note_writes(self, request: Any, first: int, end: int) -> None:
        written = Written(request=request, tier=self.tier_in_force[request.request_id])
        for manager in self._managers():
            blocks = manager.req_to_blocks[request.request_id]
            for position in range(first, end):
                block = blocks[position // self.block_size]
                if not block.is_null:
                    self._slots[block.block_id][position % self.block_size] = written

    def _check_hash(self, request: Any, block: Any) -> None:
        """A key in the prefix cache means one tier for as long as the server runs."""
        tier = self.tier_in_force[request.request_id]
        if self._tier_of_hash.setdefault(block.block_hash, tier) != tier:
            self._violated("one key for two tiers", f"tiers {self._tier_of_hash[block.block_hash]} and {tier}")

    def _violated(self, kind: str, what: str) -> None:
        if len(self.violations[kind]) < MOST:
            self.violations[kind].append(f"step {self.seen['steps']}: {what}")
