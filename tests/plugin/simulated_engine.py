"""vLLM's own scheduler, with tiers and lanes mixed in or as it is, over an engine whose steps only take time.

Seconds are those of a clock of its own: a step takes ``OVERHEAD``, and a token ``token``, twice as much at a depth of
``TWICE_AS_DEAR_AT`` tokens. Every token that is sampled is the same.
"""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from longrope_vllm.plugin import lane_scheduling
from longrope_vllm.plugin.progress import AWAITS_INPUT
from longrope_vllm.plugin.scheduler import tiered

OVERHEAD, TOKEN, TWICE_AS_DEAR_AT = 0.005, 2e-4, 8_000
SAMPLED = 7
BLOCK = 16
STUCK = 10_000
"""Empty steps after which nothing will come of an engine: at most 50 seconds of its time."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request: when it comes, in seconds, and its lengths in tokens.

    ``adapter`` is the number of its LoRA adapter, 0 for none. A ``session`` waits for its client after its answer: the
    next job of its name goes on with it.
    """

    name: str
    at: float
    prompt: int
    output: int = 4
    adapter: int = 0
    session: bool = False


@dataclass(kw_only=True)
class Served:
    """What became of a job: seconds since it came, tokens, how often it was preempted."""

    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    preemptions: int = 0


@dataclass(kw_only=True)
class SimulatedEngine:
    """One engine; ``run`` serves jobs to their end."""

    vllm_config: Any
    blocks: int = 8_000
    in_flight: int = 1
    plugin: bool = True
    token: float = TOKEN
    now: float = 0.0
    idle_steps: int = 0
    """Steps of no tokens although there were requests."""
    longest_step: float = 0.0
    found: dict[str, Served] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.structured_output import StructuredOutputManager

        kind = Scheduler if self.in_flight == 1 else AsyncScheduler
        self.vllm_config.scheduler_config.async_scheduling = self.in_flight > 1
        self.vllm_config.cache_config.num_gpu_blocks = self.blocks
        self.scheduler = (tiered(kind) if self.plugin else kind)(
            vllm_config=self.vllm_config,
            kv_cache_config=cache_of(self.blocks),
            structured_output_manager=StructuredOutputManager(self.vllm_config),
            block_size=BLOCK,
            log_stats=False,
        )

    def run(self, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> dict[str, Served]:
        """Serve ``jobs`` until all of them have ended, or wait for their clients."""
        monkeypatch.setattr(lane_scheduling, "time", SimpleNamespace(monotonic=lambda: self.now))
        coming = deque(sorted(jobs, key=lambda job: job.at))
        came = {job.name: job.at for job in jobs}
        under_way: deque[tuple[Any, list[str], float]] = deque()
        while coming or self._has_work() or under_way:
            if coming and not self._has_work():
                self.now = max(self.now, coming[0].at)
            while coming and coming[0].at <= self.now:
                self.add(coming.popleft())
            if self._has_work():
                under_way.append(self._decide())
            if len(under_way) == self.in_flight or not self._has_work():
                self._end(*under_way.popleft(), came)
        return self.found

    def seconds(self, tokens: int, depth: int) -> float:
        """What so many tokens after ``depth`` others take in a step."""
        return tokens * self.token * (1 + (depth + tokens / 2) / TWICE_AS_DEAR_AT)

    def add(self, job: Job) -> None:
        """Queue ``job``, which has come."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.v1.request import Request

        params = SamplingParams(max_tokens=job.output, ignore_eos=True)
        params.update_from_generation_config({}, eos_token_id=2)
        tokens = [len(self.found) + 3] * job.prompt
        self.found[job.name] = Served()
        adapter = LoRARequest(f"adapter-{job.adapter}", job.adapter, "nowhere") if job.adapter else None
        request = Request(job.name, tokens, params, None, lora_request=adapter, resumable=job.session)
        self.scheduler.add_request(request)

    def _has_work(self) -> bool:
        return any(request.status.name != AWAITS_INPUT for request in self.scheduler.requests.values())

    def _decide(self) -> tuple[Any, list[str], float]:
        """One step: what vLLM decided, who gets a token at its end, how long it takes."""
        before = {name: request.num_computed_tokens for name, request in self.scheduler.requests.items()}
        output = self.scheduler.schedule()
        seconds = OVERHEAD
        for name, tokens in output.num_scheduled_tokens.items():
            seconds += self.seconds(tokens, before[name])
        if not output.num_scheduled_tokens and self.in_flight == 1:
            self.idle_steps += 1
            assert self.idle_steps < STUCK, "nobody is served any more"
        requests = self.scheduler.requests
        sampling = [name for name in output.num_scheduled_tokens if not requests[name].is_prefill_chunk]
        self.longest_step = max(self.longest_step, seconds)
        return output, sampling, seconds

    def _end(self, output: Any, sampling: list[str], seconds: float, came: dict[str, float]) -> None:
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(output.num_scheduled_tokens)
        self.now += seconds
        for name in sampling:
            if name not in self.scheduler.requests:
                continue
            served = self.found[name]
            served.preemptions = self.scheduler.requests[name].num_preemptions
            served.tokens += 1
            served.last = self.now - came[name]
            served.first = served.first or served.last
        self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={name: place for place, name in enumerate(names)},
                sampled_token_ids=[[SAMPLED] if name in sampling else [] for name in names],
            ),
        )


def config_of(model: Path, **engine: Any) -> Any:
    """vLLM's configuration of a server for ``model``, whose weights nobody needs."""
    from vllm.engine.arg_utils import EngineArgs

    defaults = {"dtype": "float32", "max_num_batched_tokens": 2048, "max_num_seqs": 16, "block_size": BLOCK}
    config = EngineArgs(model=str(model), skip_tokenizer_init=True, **defaults | engine).create_engine_config()
    config.cache_config.enable_prefix_caching = False
    return config


def cache_of(blocks: int) -> Any:
    """A KV cache of ``blocks`` blocks and one layer."""
    import torch
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    layer = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=32, dtype=torch.float32)
    groups = [KVCacheGroupSpec(["layer"], layer)]
    return KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups)
