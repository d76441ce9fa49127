"""GPUs named on the command line."""

import pytest

from longrope_vllm.errors import PlanError
from longrope_vllm.gpus import KNOWN, parse_gpus


@pytest.mark.parametrize(
    ("text", "name", "count", "memory"),
    [("8xH100-80", "h100-80", 8, 80), ("h100", "h100-80", 1, 80), ("4x80", "80", 4, 80), ("a10g-24", "a10g-24", 1, 24)],
)
def test_gpus_are_named_with_their_memory(text: str, name: str, count: int, memory: int) -> None:
    found = parse_gpus(text)
    assert (found.name, found.count, found.memory) == (name, count, memory * 10**9)


@pytest.mark.parametrize("text", ["", "a100", "0xh100", "8x", "8xtpu", "0", "8 x h100-81"])
def test_gpus_that_are_not_known_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match=r"Expected GPUs such as 8xh100-80 or 4x80 .GB., found .*known are rtx3090"):
        parse_gpus(text)


def test_a_name_says_the_memory_and_every_figure_is_there() -> None:
    assert all(name.endswith(f"-{figures.gigabytes}") for name, figures in KNOWN.items())
    assert all(figures.flops > figures.bandwidth > 1e11 for figures in KNOWN.values())
