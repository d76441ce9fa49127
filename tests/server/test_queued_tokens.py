"""The gauge of the prompt tokens that wait, which autoscaling reads."""

import asyncio
import re
from pathlib import Path

from prometheus_client import REGISTRY

from longrope_vllm.server import queued_tokens

ROOT = Path(__file__).parents[2]
NAME = "longrope_queued_prompt_tokens"


class Engine:
    """Says what vLLM's engine client says, one number after the other."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = list(numbers)

    def get_num_queued_tokens(self) -> int:
        return self._numbers.pop(0)


async def counted(engine: object) -> float | None:
    task = asyncio.create_task(queued_tokens.count(engine))
    await asyncio.sleep(0)
    task.cancel()
    return REGISTRY.get_sample_value(NAME)


def test_the_gauge_is_what_the_engine_client_counts() -> None:
    assert asyncio.run(counted(Engine(1_048_576))) == 1_048_576
    assert asyncio.run(counted(Engine(0))) == 0


def test_an_engine_client_that_does_not_count_is_left_alone() -> None:
    asyncio.run(asyncio.wait_for(queued_tokens.count(object()), 10))


def test_the_chart_scales_by_it() -> None:
    query = (ROOT / "deploy/chart/templates/scaling.yaml").read_text()
    assert re.search(rf"query: sum\({NAME}{{", query)
