"""Random requests at random tiers through real engines: every answer is the one that a single pass gives.

Oracle: ``one_pass``, which loads the base model with transformers and reads nothing that the server reads. A case is a
request; the seed of a failing one is in the message, and ``random_scenario(seed, ...)`` draws it again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from engine_jobs import LONGROPE, SHORT_TOLERANCE, STOCK, Results, RunEngine
from longrope_vllm import Geometry, write_rope
from one_pass import OnePass, Verdict
from random_requests import Scenario, expected_status, random_scenario
from tiny_models import plain_phi3, tiny_llama, tiny_mistral, tiny_qwen3

pytestmark = pytest.mark.vllm

SHAPES: dict[str, Callable[[Path], Path]] = {
    "llama": tiny_llama,
    "qwen3": tiny_qwen3,
    "phi3": plain_phi3,
    "mistral": tiny_mistral,
}
REQUESTS = 48
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scenario with the checkpoint before and after ``write_rope``."""

    scenario: Scenario
    base: Path
    checkpoint: Path

    @property
    def oracle(self) -> OnePass:
        return OnePass.from_checkpoint(self.base, self.scenario.factors)

    def verdicts(self, answers: Results) -> list[Verdict]:
        assert answers.keys() == {entry["id"] for entry in self.scenario.requests}
        return self.oracle.verdicts(self.scenario.requests, answers)


DrawCase = Callable[[str, str], Case]


@pytest.fixture(scope="module")
def draw_case(tmp_path_factory: pytest.TempPathFactory) -> DrawCase:
    def draw(shape: str, seed: str) -> Case:
        folder = tmp_path_factory.mktemp(shape)
        base, checkpoint = SHAPES[shape](folder / "base"), SHAPES[shape](folder / "longrope")
        scenario = random_scenario(f"{shape} {seed}", Geometry.from_checkpoint(base), requests=REQUESTS)
        write_rope(checkpoint, scenario.factors)
        return Case(scenario=scenario, base=base, checkpoint=checkpoint)

    return draw


@dataclass(frozen=True, kw_only=True)
class Served:
    """A case and what one engine answered."""

    case: Case
    answers: Results

    @property
    def where(self) -> str:
        scenario = self.case.scenario
        return f"seed {scenario.seed!r}, boundaries {scenario.boundaries}, engine {scenario.engine}"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("llama", "1", {}), id="Llama"),
        pytest.param(("llama", "2", {"async_scheduling": True}), id="Llama asynchronous"),
        pytest.param(("qwen3", "1", {}), id="Qwen3"),
        pytest.param(("qwen3", "2", {"speculative_config": NGRAM}), id="Qwen3 n-gram speculation"),
        pytest.param(("phi3", "1", {}), id="Phi-3"),
        pytest.param(("phi3", "2", {"async_scheduling": True}), id="Phi-3 asynchronous"),
        pytest.param(("mistral", "1", {}), id="Mistral with a sliding window"),
    ],
)
def served(request: pytest.FixtureRequest, run_engine: RunEngine, draw_case: DrawCase) -> Served:
    shape, seed, options = request.param
    case = draw_case(shape, seed)
    scenario = case.scenario
    return Served(
        case=case,
        answers=run_engine(LONGROPE, case.checkpoint, scenario.requests, **scenario.engine, **options),
    )


def test_every_answer_is_the_one_of_a_single_pass(served: Served) -> None:
    verdicts = served.case.verdicts(served.answers)
    worst = max(verdicts, key=lambda verdict: verdict.difference)
    print(f"{served.where}: largest difference {worst.difference:.2e} in {worst}")
    assert [verdict for verdict in verdicts if not verdict.is_right] == [], served.where


def test_every_request_ends_in_the_tier_of_its_length(served: Served) -> None:
    scenario = served.case.scenario
    for entry in scenario.requests:
        expected, status = expected_status(entry, scenario.boundaries), served.answers[entry["id"]]["status"]
        assert {name: status[name] for name in expected} == expected, (served.where, entry["id"])


def test_the_requests_are_worth_serving(served: Served) -> None:
    crossings = [answer["status"]["crossings"] for answer in served.answers.values()]
    reused = [answer for answer in served.answers.values() if answer["cached"]]
    print(f"{served.where}: {sum(map(bool, crossings))} cross, {max(crossings)} at most, {len(reused)} reuse a prefix")
    assert sum(map(bool, crossings)) >= 6
    assert max(crossings) >= 2
    assert len(reused) >= 4


@pytest.mark.parametrize("shape", SHAPES)
def test_the_plain_tier_of_the_oracle_is_the_untouched_model(shape: str, draw_case: DrawCase) -> None:
    case = draw_case(shape, "plain")
    oracle, plain = case.oracle, case.scenario.factors.tiers[0]
    short = [entry["prompt"] for entry in case.scenario.requests if 1 < len(entry["prompt"]) <= plain.max_length]
    assert len(short) >= 4
    for tokens in short[:4]:
        with torch.no_grad():
            untouched = oracle.model(torch.tensor([tokens])).logits[0].double().log_softmax(dim=-1)
        found = oracle.log_probabilities(tokens, range(len(tokens), len(tokens) + 1))
        torch.testing.assert_close(found, untouched[-1:], rtol=0.0, atol=SHORT_TOLERANCE)


def test_without_the_cache_salt_answers_are_wrong_and_the_oracle_sees_it(
    run_engine: RunEngine, draw_case: DrawCase
) -> None:
    case = draw_case("llama", "1")
    answers = run_engine(
        LONGROPE, case.checkpoint, case.scenario.requests, job={"cache_salt": False}, **case.scenario.engine
    )
    wrong = [verdict for verdict in case.verdicts(answers) if not verdict.is_right]
    print(f"{len(wrong)} of {len(answers)} wrong without the cache salt")
    assert len(wrong) >= 4
    for verdict in wrong:  # as they read blocks of another tier: when they arrived or when they crossed
        assert answers[verdict.request]["cached"] or answers[verdict.request]["status"]["crossings"]


def test_stock_vllm_answers_short_requests_wrongly_and_the_oracle_sees_it(
    run_engine: RunEngine, draw_case: DrawCase
) -> None:
    case = draw_case("llama", "1")
    answers = run_engine(STOCK, case.checkpoint, case.scenario.requests, **case.scenario.engine)
    longest = case.scenario.factors.max_length
    shorter = [verdict for verdict in case.verdicts(answers) if verdict.tiers[0] < longest]
    wrong = [verdict for verdict in shorter if not verdict.is_right]
    print(f"{len(wrong)} of {len(shorter)} wrong on stock vLLM")
    assert len(wrong) > 0.8 * len(shorter) > 10
