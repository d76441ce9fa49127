"""How long a server is: the checkpoint's full length by default, or what fits into the memory."""

from pathlib import Path
from typing import Any

import pytest
from simulated_engine import config_of

from engine_jobs import LONG_TOLERANCE, LONGROPE, STOCK, RunEngine, largest_difference, prompt, request
from tiny_models import LONG, WINDOW

pytestmark = pytest.mark.vllm

BYTES_A_TOKEN = 4 * 2 * 2 * 32 * 4  # layers, keys and values, heads, head size, float32
FITTING = 5 * 128


def test_a_server_fitted_to_its_memory_keeps_rows_and_tiers_together(
    run_engine: RunEngine, longrope_checkpoint: Any
) -> None:
    # vLLM shortens max_model_len after the table was built for the full length.
    requests = [request(f"long-{n}", prompt(n), max_tokens=6) for n in (WINDOW + 1, 400)]
    requests += [request("crossing", prompt(WINDOW - 2), max_tokens=12)]
    fitted = run_engine(
        LONGROPE,
        longrope_checkpoint,
        requests,
        max_model_len=-1,
        kv_cache_memory_bytes=BYTES_A_TOKEN * FITTING,
    )
    stock = run_engine(STOCK, longrope_checkpoint, requests, max_model_len=LONG)
    for name, found in fitted.items():
        assert WINDOW < found["status"]["tier_max_length"] < LONG
        if name != "crossing":
            assert found["tokens"] == stock[name]["tokens"]
            assert largest_difference(found["top"], stock[name]["top"]) < LONG_TOLERANCE
    assert fitted["crossing"]["status"]["crossings"] == 1


@pytest.mark.parametrize(("asked", "served"), [(None, LONG), (LONG // 2, LONG // 2)], ids=["by default", "shortened"])
def test_a_drafter_reaches_as_far_as_its_target(asked: int | None, served: int, longrope_checkpoint: Path) -> None:
    drafter = {"method": "draft_model", "model": str(longrope_checkpoint), "num_speculative_tokens": 3}
    config = config_of(longrope_checkpoint, max_model_len=asked, speculative_config=drafter)
    assert config.model_config.max_model_len == served
    assert config.speculative_config.draft_model_config.max_model_len == served
