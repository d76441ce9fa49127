"""LoRA adapters in vLLM's own scheduler, while lanes and tiers have running requests sit steps out.

Oracles: vLLM's assertion that the adapters of a step have places, and the same requests without adapters.
"""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_engine import Job, SimulatedEngine, config_of

from tiny_models import stretched, tiny_llama

pytestmark = pytest.mark.vllm

FAST = 2e-5
"""Seconds of a token at the start, so that a step with the least part of a long prompt is short."""

sync_and_async = pytest.mark.parametrize("in_flight", [1, 2], ids=["synchronous", "asynchronous"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stretched(tiny_llama(tmp_path_factory.mktemp("seats"), layers=1), max_length=65_536)


@pytest.fixture(scope="module")
def config(model: Path) -> Any:
    return config_of(model, enable_lora=True, max_loras=1, max_lora_rank=8)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def beside_a_long_one(adapter: int) -> list[Job]:
    """A long prompt of the first adapter, and short ones of ``adapter`` that come while it is computed."""
    short = [Job(name=f"short-{n}", at=0.05 + 0.1 * n, prompt=500, adapter=adapter) for n in range(10)]
    return [Job(name="long", at=0.0, prompt=40_000, adapter=min(adapter, 1)), *short]


@sync_and_async
def test_another_adapter_waits_for_the_one_of_a_long_prompt_that_sits_steps_out(
    in_flight: int, config: Any, patched: pytest.MonkeyPatch
) -> None:
    jobs = beside_a_long_one(adapter=2)
    found = SimulatedEngine(vllm_config=config, in_flight=in_flight, token=FAST).run(jobs, patched)
    assert all(served.tokens == 4 for served in found.values())
    ended = found["long"].last
    assert all(job.at + found[job.name].first > ended for job in jobs[1:])


@sync_and_async
def test_an_adapter_that_has_its_place_is_no_reason_to_wait(
    in_flight: int, config: Any, patched: pytest.MonkeyPatch
) -> None:
    found, without = (
        SimulatedEngine(vllm_config=config, in_flight=in_flight, token=FAST).run(beside_a_long_one(adapter), patched)
        for adapter in (1, 0)
    )
    assert found == without


def test_a_place_is_kept_whoever_has_a_request_sit_out_and_nobody_loses_theirs_in_the_queue(config: Any) -> None:
    engine = SimulatedEngine(vllm_config=config)
    scheduler = engine.scheduler
    engine.add(Job(name="seated", at=0.0, prompt=100, adapter=1))
    scheduler.schedule()
    scheduler.requests["seated"].next_decode_eligible_step = scheduler.current_step + 2  # as at the end of a tier
    for name, adapter in [("first", 2), ("same", 1), ("none", 0), ("last", 3)]:
        engine.add(Job(name=name, at=0.0, prompt=100, adapter=adapter))
    step = scheduler.schedule()
    assert list(step.num_scheduled_tokens) == ["same", "none"]
    assert [request.request_id for request in scheduler.waiting] == ["first", "last"]


def test_a_free_place_is_given_away_also_while_somebody_sits_out(model: Path) -> None:
    engine = SimulatedEngine(vllm_config=config_of(model, enable_lora=True, max_loras=2, max_lora_rank=8))
    scheduler = engine.scheduler
    engine.add(Job(name="seated", at=0.0, prompt=100, adapter=1))
    scheduler.schedule()
    scheduler.requests["seated"].next_decode_eligible_step = scheduler.current_step + 2
    for name, adapter in [("second", 2), ("third", 3), ("also second", 2)]:
        engine.add(Job(name=name, at=0.0, prompt=100, adapter=adapter))
    step = scheduler.schedule()
    assert list(step.num_scheduled_tokens) == ["second", "also second"]


jobs = st.lists(
    st.tuples(
        st.floats(0.0, 3.0), st.sampled_from([20, 250, 700, 6_000, 15_000]), st.integers(1, 12), st.integers(0, 3)
    ),
    min_size=1,
    max_size=12,
)


@sync_and_async
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=jobs, spare=st.integers(0, 2_000))
def test_everybody_is_served_whatever_adapters_come(
    in_flight: int, drawn: list[tuple[float, int, int, int]], spare: int, config: Any, patched: pytest.MonkeyPatch
) -> None:
    named = [
        Job(name=f"{n}", at=at, prompt=prompt, output=output, adapter=adapter)
        for n, (at, prompt, output, adapter) in enumerate(drawn)
    ]
    engine = SimulatedEngine(vllm_config=config, blocks=1_000 + spare, in_flight=in_flight)
    found = engine.run(named, patched)
    assert {job.name: job.output for job in named} == {name: served.tokens for name, served in found.items()}
