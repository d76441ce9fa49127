"""Answers of one server with two tiers against stock vLLM serving one rope to everybody, in float32.

Oracles: stock vLLM with the base model alone (short tier), and stock vLLM with the same longrope checkpoint, where its
own class uses the long factors for all (long tier). The stock long table is computed in float32 and ours in float64,
so the long tolerance holds that rounding; the plain tier shares its rows to the last bit.
"""

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
from tiny_models import LONG, WINDOW

pytestmark = pytest.mark.vllm

SHORT = {f"short-{length}": length for length in (5, 100, WINDOW - 9, WINDOW - 1, WINDOW)}
LONGER = {f"long-{length}": length for length in (WINDOW + 1, 300, 600, LONG - 8)}
CROSSING = {f"crossing-{length}": length for length in (200, WINDOW - 6, WINDOW - 1, WINDOW)}
CROSSING_TOKENS = 70
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}
DRAFT_MODEL = {"method": "draft_model", "num_speculative_tokens": 3}
"""The longrope checkpoint drafts for itself, from the rows of the longest tier whatever the tier of the request."""
LANES = {"long_prefill_token_threshold": 240, "additional_config": {"longrope": {"short_wait": 0.001}}}
"""The longer requests are in the long lane, in small chunks that depend on the time; by default none of them is."""
PIPELINE = {
    "pipeline_parallel_size": 2,
    # Stock vLLM 0.32 makes the buffer between the stages in its warm-up run, which the CPU worker skips when it is
    # eager. Traced without a code generator it warms up.
    "enforce_eager": False,
    "compilation_config": {"backend": "eager"},
}
EXTRAPOLATING = {"hf_overrides": {"max_position_embeddings": LONG}}
"""Lets a base model read past its window with its own rope: its table would end there otherwise."""


def short_tokens(length: int) -> int:
    """As many output tokens as fit without feeding position ``WINDOW`` back, at most 8."""
    return min(8, WINDOW - length + 1)


def one_tier_requests() -> list[dict[str, Any]]:
    """Short and long requests mixed, arriving over the first steps in an order that alternates them."""
    short = [
        request(name, prompt(n), max_tokens=short_tokens(n), arrive=i) for i, (name, n) in enumerate(SHORT.items())
    ]
    long = [request(name, prompt(n), max_tokens=8, arrive=i) for i, (name, n) in enumerate(LONGER.items())]
    return [*long, *short]


def crossing_requests() -> list[dict[str, Any]]:
    return [
        request(name, prompt(n, seed=1), max_tokens=CROSSING_TOKENS, arrive=2 * i)
        for i, (name, n) in enumerate(CROSSING.items())
    ]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param({}, id="synchronous"),
        pytest.param({"async_scheduling": True}, id="asynchronous"),
        pytest.param({"enforce_eager": False}, id="compiled"),
        pytest.param({"v2_runner": True, "job": {"warm_up": True}}, id="V2 runner"),
        pytest.param({"v2_runner": True, "async_scheduling": True}, id="V2 runner asynchronous"),
        pytest.param({"speculative_config": NGRAM}, id="n-gram speculation"),
        # V2 only: on the CPU, stock vLLM's V1 runner accepted none of 972 proposals of a model drafting for itself.
        pytest.param({"v2_runner": True, "speculative_config": DRAFT_MODEL}, id="V2 runner draft model"),
        pytest.param(LANES, id="lanes"),
        pytest.param({"tensor_parallel_size": 2}, id="tensor parallel"),
        pytest.param(PIPELINE, id="pipeline parallel"),
    ],
)
def served(request: pytest.FixtureRequest, run_engine: RunEngine, longrope_checkpoint: Any) -> Results:
    """One engine with the plugin, everything at once; the synchronous one gets it in the opposite order."""
    requests = one_tier_requests() + crossing_requests()
    if not request.param:
        last = max(entry["arrive"] for entry in requests)
        requests = [entry | {"arrive": last - entry["arrive"]} for entry in reversed(requests)]
    engine = dict(request.param)
    if engine.get("speculative_config") == DRAFT_MODEL:
        engine["speculative_config"] = DRAFT_MODEL | {"model": str(longrope_checkpoint)}
    return run_engine(LONGROPE, longrope_checkpoint, requests, **engine)


@pytest.fixture(scope="module")
def base_alone(run_engine: RunEngine, base_checkpoint: Any) -> Results:
    """Stock vLLM with the base model: the oracle of the short tier. Long requests extrapolate here."""
    requests = one_tier_requests() + crossing_requests()
    return run_engine(STOCK, base_checkpoint, requests, **EXTRAPOLATING)


@pytest.fixture(scope="module")
def long_for_all(run_engine: RunEngine, longrope_checkpoint: Any, base_alone: Results) -> Results:
    """Stock vLLM with long factors for everybody, also fed what the crossing requests have when they cross."""
    continued = [
        request(name, (prompt(n, seed=1) + base_alone[name]["tokens"])[: WINDOW + 1], max_tokens=CROSSING_TOKENS)
        for name, n in CROSSING.items()
    ]
    return run_engine(STOCK, longrope_checkpoint, one_tier_requests() + continued, max_model_len=LONG)


@pytest.mark.parametrize("name", SHORT)
def test_short_requests_answer_as_the_base_model_alone(name: str, served: Results, base_alone: Results) -> None:
    assert served[name]["tokens"] == base_alone[name]["tokens"]
    assert largest_difference(served[name]["top"], base_alone[name]["top"]) < SHORT_TOLERANCE
    assert served[name]["status"] == {
        "tier": 0,
        "tier_max_length": WINDOW,
        "tokens": SHORT[name] + short_tokens(SHORT[name]),
        "crossings": 0,
        "reprefilled_tokens": 0,
    }


@pytest.mark.parametrize("name", LONGER)
def test_long_requests_answer_as_stock_with_long_factors(name: str, served: Results, long_for_all: Results) -> None:
    assert served[name]["tokens"] == long_for_all[name]["tokens"]
    assert largest_difference(served[name]["top"], long_for_all[name]["top"]) < LONG_TOLERANCE
    assert served[name]["status"]["tier_max_length"] == LONG


@pytest.mark.parametrize("name", CROSSING)
def test_a_crossing_request_is_short_before_the_boundary_and_long_after_it(
    name: str, served: Results, base_alone: Results, long_for_all: Results
) -> None:
    # Output tokens sampled from positions below WINDOW belong to the short tier, the rest to the long one.
    before = WINDOW - CROSSING[name] + 1
    found = served[name]
    assert (found["status"]["crossings"], found["status"]["reprefilled_tokens"]) == (1, WINDOW)
    assert len(found["tokens"]) == CROSSING_TOKENS
    assert found["tokens"][:before] == base_alone[name]["tokens"][:before]
    assert largest_difference(found["top"][:before], base_alone[name]["top"][:before]) < SHORT_TOLERANCE
    after = CROSSING_TOKENS - before
    assert found["tokens"][before:] == long_for_all[name]["tokens"][:after]
    assert largest_difference(found["top"][before:], long_for_all[name]["top"][:after]) < LONG_TOLERANCE


def test_a_server_of_the_first_tier_alone_answers_as_the_base_model(
    run_engine: RunEngine, longrope_checkpoint: Any, base_alone: Results
) -> None:
    fitting = {name: n for name, n in SHORT.items() if n + 8 < WINDOW}
    requests = [request(name, prompt(n), max_tokens=8) for name, n in fitting.items()]
    answers = run_engine(LONGROPE, longrope_checkpoint, requests, max_model_len=WINDOW)
    for name in fitting:
        assert answers[name]["tokens"] == base_alone[name]["tokens"]
        assert largest_difference(answers[name]["top"], base_alone[name]["top"]) < SHORT_TOLERANCE


@pytest.mark.parametrize("name", LONGER)
def test_the_wrong_rope_would_be_noticed_in_long_requests(
    name: str, base_alone: Results, long_for_all: Results
) -> None:
    assert largest_difference(base_alone[name]["top"], long_for_all[name]["top"]) > 20 * LONG_TOLERANCE


def test_the_wrong_rope_would_be_noticed_in_short_requests(base_alone: Results, long_for_all: Results) -> None:
    for name in SHORT:
        assert largest_difference(base_alone[name]["top"], long_for_all[name]["top"]) > 100 * SHORT_TOLERANCE


def test_a_model_without_longrope_is_bit_for_bit_untouched(
    base_alone: Results, run_engine: RunEngine, base_checkpoint: Any
) -> None:
    requests = one_tier_requests() + crossing_requests()
    with_plugin = run_engine(LONGROPE, base_checkpoint, requests, **EXTRAPOLATING)
    assert with_plugin == base_alone
