"""A checkpoint as released: Phi-3's own longrope block, partial rotary, fused projections, one magnitude for both.

Oracles: stock vLLM as long as the trained window, where its class takes the short factors, and as long as the whole
model, where it takes the long ones for everybody.
"""

from pathlib import Path

import pytest

from engine_jobs import LONG_TOLERANCE, LONGROPE, STOCK, Results, RunEngine, largest_difference, prompt, request
from tiny_models import LONG, WINDOW, tiny_phi3

pytestmark = pytest.mark.vllm

SHORT = [request(f"short-{n}", prompt(n), max_tokens=8) for n in (5, 100, WINDOW - 9)]
LONGER = [request(f"long-{n}", prompt(n), max_tokens=8) for n in (WINDOW + 1, 600)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_phi3(tmp_path_factory.mktemp("phi3"))


@pytest.fixture(scope="module")
def served(run_engine: RunEngine, checkpoint: Path) -> Results:
    return run_engine(LONGROPE, checkpoint, SHORT + LONGER)


@pytest.mark.parametrize(("requests", "tier", "length"), [(SHORT, 0, WINDOW), (LONGER, 1, LONG)])
def test_each_tier_of_phi3_answers_as_a_stock_server_of_its_length(
    requests: list[dict[str, object]], tier: int, length: int, served: Results, run_engine: RunEngine, checkpoint: Path
) -> None:
    stock = run_engine(STOCK, checkpoint, requests, max_model_len=length)
    for name, expected in stock.items():
        assert served[name]["status"]["tier"] == tier
        assert served[name]["tokens"] == expected["tokens"]
        assert largest_difference(served[name]["top"], expected["top"]) < LONG_TOLERANCE
