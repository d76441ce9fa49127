"""Requests preempted for memory, around the boundary between tiers, answer as with memory to spare.

The engine with memory to spare is held against stock vLLM in ``test_exactness``; here it is the oracle.
"""

from typing import Any

import pytest

from engine_jobs import LONGROPE, SHORT_TOLERANCE, Results, RunEngine, largest_difference, prompt, request
from tiny_models import WINDOW

pytestmark = pytest.mark.vllm

BLOCKS = 6
"""KV blocks of 128 tokens, one of them reserved: the long request of a round and the short one fit, until one grows."""
ENGINE = {
    "max_model_len": 5 * 128,
    "max_num_batched_tokens": 512,  # a resumed request samples in the step in which it resumes
}
LATE = 100  # a round begins when the one before is answered


def growing_requests() -> list[dict[str, Any]]:
    """Rounds of two: a long request that soon needs another block, and a short one that is preempted for it.

    From round to round the short prompt is one token longer, so that the preemption meets it before the boundary, on
    it with the crossing token in flight, and after it.
    """
    return [
        entry
        for i, n in enumerate(range(WINDOW - 14, WINDOW + 1))
        for entry in (
            request(f"long-{n}", prompt(380, seed=n), max_tokens=20, arrive=LATE * i),
            request(f"short-{n}", prompt(n, seed=n), max_tokens=24, arrive=LATE * i + 1),
        )
    ]


@pytest.fixture(scope="module")
def with_memory_to_spare(run_engine: RunEngine, longrope_checkpoint: Any) -> Results:
    return run_engine(LONGROPE, longrope_checkpoint, growing_requests(), **ENGINE)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param({}, id="synchronous"),
        pytest.param({"async_scheduling": True}, id="asynchronous"),
        pytest.param({"v2_runner": True, "async_scheduling": True}, id="V2 runner asynchronous"),
        pytest.param({"v2_runner": True, "async_scheduling": True, "long_prefill_token_threshold": 300}, id="lanes"),
    ],
)
def test_preempted_requests_answer_as_with_memory_to_spare(
    engine: dict[str, Any], with_memory_to_spare: Results, run_engine: RunEngine, longrope_checkpoint: Any
) -> None:
    tight = run_engine(
        LONGROPE,
        longrope_checkpoint,
        growing_requests(),
        num_gpu_blocks_override=BLOCKS,
        enable_prefix_caching=False,  # a preempted request is computed again, not found again
        **ENGINE,
        **engine,
    )
    preempted = {name for name, found in tight.items() if found["preemptions"] > found["status"]["crossings"]}
    assert len(preempted) > 5, "the cache is not small enough for this test"
    for name, expected in with_memory_to_spare.items():
        for field in ("tier", "tokens", "crossings"):  # memory decides how much a crossing has to compute again
            assert tight[name]["status"][field] == expected["status"][field]
        assert tight[name]["tokens"] == expected["tokens"]
        assert largest_difference(tight[name]["top"], expected["top"]) < SHORT_TOLERANCE
