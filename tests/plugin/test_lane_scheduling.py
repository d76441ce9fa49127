"""Lanes in vLLM's own scheduler: what short and long requests wait for, in the seconds of a simulated engine.

Oracles: the same scheduler without the plugin, the same requests alone, and the bounds of ``lanes``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_engine import BLOCK, OVERHEAD, Job, Served, SimulatedEngine, config_of

from longrope_vllm.plugin.lane_scheduling import long_past
from longrope_vllm.plugin.lanes import BURST, LEAST_CHUNK, PATIENCE, SHARE
from longrope_vllm.plugin.settings import Settings
from tiny_models import stretched, tiny_llama

pytestmark = pytest.mark.vllm

WAIT = Settings.short_wait
LONG = Job(name="long", at=0.0, prompt=60_000)
SHORT = [Job(name=f"short-{number}", at=0.1 + 0.23 * number, prompt=500) for number in range(20)]
FAST = 2e-5
"""Seconds of a token at the start: a step of the least part of a long prompt is then within the wait at any depth."""

sync_and_async = pytest.mark.parametrize("in_flight", [1, 2], ids=["synchronous", "asynchronous"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stretched(tiny_llama(tmp_path_factory.mktemp("lanes"), layers=1), max_length=65_536)


@pytest.fixture(scope="module")
def config(model: Path) -> Any:
    return config_of(model)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def firsts(found: dict[str, Served], name: str = "short") -> list[float]:
    return sorted(served.first for job, served in found.items() if job.startswith(name))


def last_end(found: dict[str, Served], jobs: list[Job]) -> float:
    """When the last of ``jobs`` had been served, in seconds of the engine."""
    return max(job.at + found[job.name].last for job in jobs)


@sync_and_async
def test_short_requests_wait_for_a_long_one_no_longer_than_their_wait_and_the_long_one_is_hardly_slower(
    in_flight: int, config: Any, patched: pytest.MonkeyPatch
) -> None:
    def served(jobs: list[Job], *, plugin: bool = True) -> dict[str, Served]:
        engine = SimulatedEngine(vllm_config=config, in_flight=in_flight, plugin=plugin, token=FAST)
        return engine.run(jobs, patched)

    mixed, idle = served([LONG, *SHORT]), served(SHORT)
    alone = served([LONG], plugin=False)["long"].last
    assert firsts(mixed)[-1] <= firsts(idle)[-1] + 1.2 * WAIT
    assert mixed["long"].last <= 1.3 * alone
    assert all(served.preemptions == 0 for served in mixed.values())
    stock = served([LONG, *SHORT], plugin=False)
    assert firsts(stock)[-1] > 100 * firsts(idle)[-1], "vLLM has learned it: remove the lanes"


@sync_and_async
def test_where_the_least_part_of_a_long_prompt_takes_longer_than_the_wait_short_requests_wait_for_that(
    in_flight: int, config: Any, patched: pytest.MonkeyPatch
) -> None:
    sparse = [Job(name=job.name, at=10 * job.at, prompt=job.prompt) for job in SHORT]
    idle = SimulatedEngine(vllm_config=config, in_flight=in_flight).run(sparse, patched)
    engine = SimulatedEngine(vllm_config=config, in_flight=in_flight)
    mixed = engine.run([LONG, *sparse], patched)
    least = OVERHEAD + engine.seconds(LEAST_CHUNK, LONG.prompt - LEAST_CHUNK)
    assert least > 4 * WAIT
    assert WAIT < firsts(mixed)[-1] - firsts(idle)[-1] <= in_flight * least


@sync_and_async
def test_a_flood_of_short_requests_leaves_a_long_one_its_share(
    in_flight: int, config: Any, patched: pytest.MonkeyPatch
) -> None:
    flood = [Job(name=f"short-{number}", at=0.05 * number, prompt=500) for number in range(600)]
    long = Job(name="long", at=0.0, prompt=20_000)
    engine = SimulatedEngine(vllm_config=config, in_flight=in_flight)
    found = engine.run([long, *flood], patched)
    alone = SimulatedEngine(vllm_config=config, in_flight=in_flight).run([long], patched)["long"].first
    assert last_end(found, flood) > found["long"].first, "there was a short request at any time"
    beside_it = 1.1  # those who generate have their tokens in its steps as well
    assert found["long"].first <= beside_it * alone / SHARE + BURST + in_flight * engine.longest_step


def test_a_long_request_that_finds_no_memory_gets_it_although_short_ones_never_cease(
    config: Any, patched: pytest.MonkeyPatch
) -> None:
    flood = [Job(name=f"short-{number}", at=0.2 * number, prompt=500, output=40) for number in range(300)]
    long = Job(name="long", at=1.0, prompt=6_000)
    blocks = long.prompt // BLOCK + 40  # with a short request or two beside it there is no room for it
    found = SimulatedEngine(vllm_config=config, blocks=blocks).run([long, *flood], patched)
    assert last_end(found, flood) > found["long"].last, "there was a short request at any time"
    assert PATIENCE < found["long"].first < PATIENCE + 10, "it was let in because it had waited"
    assert found["long"].preemptions == 0
    assert all(served.tokens == 40 for name, served in found.items() if name != "long")


def test_memory_is_taken_from_short_requests_and_not_from_what_a_long_one_has_computed(
    config: Any, patched: pytest.MonkeyPatch
) -> None:
    before = [Job(name=f"short-{number}", at=0.0, prompt=500, output=2_000) for number in range(4)]
    late = Job(name="long", at=0.5, prompt=60_000)
    blocks = (late.prompt + 4 * 600) // BLOCK  # for all of them at first, and not for what they generate
    found = SimulatedEngine(vllm_config=config, blocks=blocks).run([*before, late], patched)
    assert found["long"].preemptions == 0
    assert sum(served.preemptions for served in found.values()) > 0, "memory was not short"


def test_a_session_that_waits_for_its_client_is_in_no_lane(config: Any, patched: pytest.MonkeyPatch) -> None:
    session = Job(name="session", at=0.0, prompt=6_000, output=1, session=True)
    after = [Job(name=f"short-{number}", at=10.0 + 2 * number, prompt=500) for number in range(20)]
    assert after[-1].at > after[0].at + PATIENCE, "longer than a long request may find no memory"
    idle = SimulatedEngine(vllm_config=config).run(after, patched)
    engine = SimulatedEngine(vllm_config=config)
    assert firsts(engine.run([session, *after], patched)) == pytest.approx(firsts(idle))
    assert engine.idle_steps == 0


@sync_and_async
def test_the_next_part_of_a_session_is_in_the_lane_of_its_length(
    in_flight: int, config: Any, patched: pytest.MonkeyPatch
) -> None:
    idle = SimulatedEngine(vllm_config=config, in_flight=in_flight, token=FAST).run(SHORT, patched)
    engine = SimulatedEngine(vllm_config=config, in_flight=in_flight, token=FAST)
    engine.run([Job(name="session", at=0.0, prompt=100, session=True)], patched)
    later = [replace(job, at=job.at + 1) for job in SHORT]
    found = engine.run([Job(name="session", at=1.0, prompt=50_000, session=True), *later], patched)
    assert found["session"].first > SHORT[-1].at, "they come while it is computed"
    assert firsts(found)[-1] <= firsts(idle)[-1] + 1.2 * WAIT


jobs = st.lists(
    st.tuples(
        st.floats(0.0, 5.0),
        st.one_of(st.integers(1, 3_000), st.integers(4_000, 12_000)),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=12,
)


@sync_and_async
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=jobs, spare=st.integers(0, 2_000))
def test_everybody_is_served_and_no_step_is_empty_whatever_comes(
    in_flight: int, drawn: list[tuple[float, int, int]], spare: int, config: Any, patched: pytest.MonkeyPatch
) -> None:
    named = [Job(name=f"{n}", at=at, prompt=prompt, output=output) for n, (at, prompt, output) in enumerate(drawn)]
    blocks = 12_100 // BLOCK + 1 + spare  # at least for the largest one alone
    engine = SimulatedEngine(vllm_config=config, blocks=blocks, in_flight=in_flight)
    knobs = engine.scheduler.max_num_scheduled_tokens, config.scheduler_config.long_prefill_token_threshold
    found = engine.run(named, patched)
    assert {job.name: job.output for job in named} == {name: served.tokens for name, served in found.items()}
    if spare == 2_000:
        assert engine.idle_steps == 0
    assert knobs == (engine.scheduler.max_num_scheduled_tokens, config.scheduler_config.long_prefill_token_threshold)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, 4096, id="by default"),
        pytest.param({"max_num_batched_tokens": 8192}, 8192, id="a step of more"),
        pytest.param({"long_prefill_token_threshold": 300}, 300, id="vLLM's own threshold"),
        pytest.param({"scheduling_policy": "priority"}, None, id="priorities"),
        pytest.param({"disable_chunked_mm_input": True}, None, id="whole images"),
        pytest.param({"additional_config": {"longrope": {"lanes": "off"}}}, None, id="off"),
    ],
)
def test_who_is_long_is_told_by_the_server_s_options(
    options: dict[str, Any], expected: int | None, model: Path
) -> None:
    assert long_past(config_of(model, **options)) == expected
