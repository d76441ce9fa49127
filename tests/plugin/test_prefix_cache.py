"""Prefix caching is on, serves requests of one tier from each other, and never across tiers."""

from typing import Any

import pytest

from engine_jobs import (
    LONG_TOLERANCE,
    LONGROPE,
    SHORT_TOLERANCE,
    STOCK,
    Results,
    RunEngine,
    largest_difference,
    prompt,
    request,
)
from tiny_models import LONG

pytestmark = pytest.mark.vllm

BLOCK = 128  # tokens of a KV block on the CPU
SHARED = prompt(BLOCK + 40)
LATE = 200  # arrives when everything before is answered


def shared_prefix_requests() -> list[dict[str, Any]]:
    long_a, long_b = SHARED + prompt(300, seed=2), SHARED + prompt(301, seed=3)
    short_a, short_b = SHARED + prompt(20, seed=4), SHARED + prompt(21, seed=5)
    return [
        request("short first", short_a, max_tokens=4, arrive=0),
        request("long after short", long_a, max_tokens=4, arrive=LATE),
        request("short after both", short_b, max_tokens=4, arrive=2 * LATE),
        request("long after both", long_b, max_tokens=4, arrive=3 * LATE),
    ]


@pytest.fixture(scope="module")
def served(run_engine: RunEngine, longrope_checkpoint: Any) -> Results:
    return run_engine(LONGROPE, longrope_checkpoint, shared_prefix_requests(), enable_prefix_caching=True)


def test_a_prefix_is_reused_within_a_tier(served: Results) -> None:
    assert served["short after both"]["cached"] == BLOCK
    assert served["long after both"]["cached"] == BLOCK


def test_a_prefix_is_never_reused_across_tiers(served: Results) -> None:
    assert served["short first"]["cached"] == 0
    assert served["long after short"]["cached"] == 0


@pytest.mark.parametrize(
    ("kind", "checkpoint", "tolerance"),
    [("short", "base_checkpoint", SHORT_TOLERANCE), ("long", "longrope_checkpoint", LONG_TOLERANCE)],
)
def test_shared_prefixes_give_right_answers_in_both_tiers(
    kind: str, checkpoint: str, tolerance: float, served: Results, run_engine: RunEngine, request: Any
) -> None:
    requests = [entry for entry in shared_prefix_requests() if entry["id"].startswith(kind)]
    model = request.getfixturevalue(checkpoint)
    stock = run_engine(
        STOCK,
        model,
        requests,
        enable_prefix_caching=False,
        hf_overrides={"max_position_embeddings": LONG},
        max_model_len=LONG,
    )
    for name, expected in stock.items():
        assert served[name]["tokens"] == expected["tokens"]
        assert largest_difference(served[name]["top"], expected["top"]) < tolerance
