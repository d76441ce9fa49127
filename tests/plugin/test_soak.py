"""A long mix of requests, aborts, preemptions, shared prefixes and crossings leaves nothing wrong and nothing behind.

Oracles: ``one_pass`` for every answer, and ``block_watch`` inside the engine for every KV block at every step.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engine_jobs import LONGROPE
from longrope_vllm import Geometry, write_rope
from one_pass import OnePass
from random_requests import Scenario, expected_status, random_soak
from tiny_models import tiny_llama

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

REQUESTS = 500
FEW = 60
RESETS = [100, 401, 802]  # steps
PHASES = ("waiting", "prefilling", "decoding", "crossing", "prefilling again", "preempted")


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """A scenario and what ``soak_run.py`` found."""

    scenario: Scenario
    base: Path
    found: dict[str, Any]


Soak = Callable[..., Soaked]


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory, run_job: Callable[..., Any]) -> Soak:
    def run(seed: str, *, requests: int, job: dict[str, Any] | None = None, **options: Any) -> Soaked:
        folder = tmp_path_factory.mktemp("soak")
        base, checkpoint = tiny_llama(folder / "base"), tiny_llama(folder / "longrope")
        scenario = random_soak(seed, Geometry.from_checkpoint(base), requests=requests)
        write_rope(checkpoint, scenario.factors)
        found = run_job(
            "soak_run.py",
            LONGROPE,
            checkpoint,
            scenario.requests,
            job={"boundaries": scenario.boundaries, "resets": RESETS} | (job or {}),
            **scenario.engine | options,
        )
        return Soaked(scenario=scenario, base=base, found=found)

    return run


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("1", REQUESTS, {}), id="synchronous"),
        pytest.param(
            ("2", REQUESTS, {"async_scheduling": True, "scheduling_policy": "priority"}), id="asynchronous by priority"
        ),
        pytest.param(("4", FEW, {"async_scheduling": True, "v2_runner": True}), id="V2 runner asynchronous"),
    ],
)
def soaked(request: pytest.FixtureRequest, soak: Soak) -> Soaked:
    seed, requests, options = request.param
    return soak(seed, requests=requests, **options)


def test_every_request_is_answered_rightly_or_aborted(soaked: Soaked) -> None:
    scenario, answers, aborted = soaked.scenario, soaked.found["answers"], soaked.found["aborted"]
    assert answers.keys() | aborted.keys() == {entry["id"] for entry in scenario.requests}
    assert not answers.keys() & aborted.keys()
    verdicts = OnePass.from_checkpoint(soaked.base, scenario.factors).verdicts(scenario.requests, answers)
    worst = max(verdicts, key=lambda verdict: verdict.difference)
    print(f"seed {scenario.seed}: {len(verdicts)} answers, largest difference {worst.difference:.2e} in {worst}")
    assert [verdict for verdict in verdicts if not verdict.is_right] == [], scenario.seed


def test_every_answered_request_crossed_as_often_as_its_length_says(soaked: Soaked) -> None:
    for entry in soaked.scenario.requests:
        if entry["id"] in soaked.found["answers"]:
            expected = expected_status(entry, soaked.scenario.boundaries)
            status = soaked.found["answers"][entry["id"]]["status"]
            assert {name: status[name] for name in expected} == expected, (soaked.scenario.seed, entry["id"])


def test_no_block_is_shared_or_read_across_tiers(soaked: Soaked) -> None:
    assert soaked.found["violations"] == {}, soaked.scenario.seed


def test_nothing_is_left_over(soaked: Soaked) -> None:
    left_over = soaked.found["left_over"]
    assert left_over.keys() >= {"requests", "running", "waiting", "_preempted", "_untold", "blocks held"}
    assert {name: count for name, count in left_over.items() if count} == {}, soaked.scenario.seed


def test_the_soak_met_what_it_is_for(soaked: Soaked) -> None:
    aborted, seen = Counter(soaked.found["aborted"].values()), soaked.found["seen"]
    requests = len(soaked.scenario.requests)
    print(f"seed {soaked.scenario.seed}: aborted {dict(aborted)}, seen {seen}")
    assert seen["preemptions"] >= requests / 10
    assert seen["crossings"] >= requests / 10
    assert seen["prefix found when new"] >= requests / 20
    assert seen["prefix found after a preemption"] >= requests / 50
    assert seen["shared blocks, summed over steps"] >= requests
    assert seen["resets"] >= 2
    assert sum(aborted.values()) >= requests / 10
    assert all(aborted[phase] >= requests // 250 for phase in PHASES)


def test_without_the_cache_salt_the_watch_sees_blocks_across_tiers(soak: Soak) -> None:
    found = soak("3", requests=FEW, job={"cache_salt": False}).found
    assert found["violations"].keys() == {"held across tiers", "read wrongly", "one key for two tiers"}
