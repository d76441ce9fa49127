"""Requests preempted for memory, around the boundary between tiers, answer as with memory to spare.

The engine with memory to spare is held against stock vLLM in ``test_exactness``; here it is the oracle.
"""

from typing import Any

import pytest

from engine_jobs import LONGROPE, SHORT_TOLERANCE, Results, RunEngine, largest_difference, prompt, request
from tiny_models import WINDOW

pytestmark = pytest.mark.vllm

BLOCKS = 11
"""KV blocks of 128 tokens, one of them reserved: two long requests and two short ones fit, until they grow."""


def growing_requests() -> list[dict[str, Any]]:
    """Long requests about to need another block, and short ones about to cross, which are preempted first."""
    long = [request(f"long-{n}", prompt(n, seed=6), max_tokens=40) for n in (370, 380)]
    short = [
        request(f"short-{n}", prompt(n, seed=7), max_tokens=40, arrive=1 + i)
        for i, n in enumerate((240, 248, 252, 254, WINDOW - 1, WINDOW))
    ]
    return [*long, *short]


@pytest.fixture(scope="module")
def with_memory_to_spare(run_engine: RunEngine, longrope_checkpoint: Any) -> Results:
    return run_engine(LONGROPE, longrope_checkpoint, growing_requests())


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({}, id="synchronous"),
        pytest.param({"async_scheduling": True}, id="asynchronous"),
        pytest.param({"v2_runner": True, "async_scheduling": True}, id="V2 runner asynchronous"),
    ],
)
def test_preempted_requests_answer_as_with_memory_to_spare(
    engine: dict[str, bool], with_memory_to_spare: Results, run_engine: RunEngine, longrope_checkpoint: Any
) -> None:
    tight = run_engine(
        LONGROPE,
        longrope_checkpoint,
        growing_requests(),
        num_gpu_blocks_override=BLOCKS,
        enable_prefix_caching=False,  # a preempted request is computed again, not found again
        **engine,
    )
    preempted = {name for name, found in tight.items() if found["preemptions"] > found["status"]["crossings"]}
    assert any(name.startswith("short") for name in preempted), "the cache is not small enough for this test"
    for name, expected in with_memory_to_spare.items():
        assert tight[name]["status"] == expected["status"]
        assert tight[name]["tokens"] == expected["tokens"]
        assert largest_difference(tight[name]["top"], expected["top"]) < SHORT_TOLERANCE
