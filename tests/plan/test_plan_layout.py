"""GPUs named on the command line, and how a model is shared out over them."""

import pytest

from longrope_vllm.errors import PlanError
from longrope_vllm.plan.cluster import parse_cluster
from longrope_vllm.plan.context_parallel import context_parallel_notes, most_decode_ways
from longrope_vllm.plan.layout import Layout, layouts
from longrope_vllm.plan.served_model import ServedModel
from published_models import LLAMA3_8B, LLAMA3_70B, SMOLLM2


@pytest.mark.parametrize(
    ("text", "nodes", "count", "title"),
    [
        ("8xH100-80", 1, 8, "8xh100-80"),
        ("2x8xH100-80", 2, 8, "2x8xh100-80"),
        ("h200", 1, 1, "h200-141"),
        ("4 x 2 x l4", 4, 2, "4x2xl4-24"),
        ("2x1xb200", 2, 1, "2x1xb200-180"),
        ("4x80", 1, 4, "4x80"),
    ],
)
def test_machines_are_named_by_nodes_and_gpus(text: str, nodes: int, count: int, title: str) -> None:
    found = parse_cluster(text)
    assert (found.nodes, found.gpus.count, found.title, found.count) == (nodes, count, title, nodes * count)
    assert parse_cluster(found.title) == found


@pytest.mark.parametrize("text", ["", "0x8xh100", "2x0xh100", "8xtpu", "x8xh100"])
def test_machines_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match="Expected"):
        parse_cluster(text)


def test_tensor_parallel_stays_in_a_node_and_stages_take_the_rest() -> None:
    found = layouts(ServedModel.of(LLAMA3_70B), parse_cluster("2x8xh100"))
    assert [(one.tensor, one.pipeline) for one in found] == [(8, 2), (4, 4), (2, 8), (1, 16)]
    assert {one.ranks_of_a_node for one in found} == {8}


def test_heads_that_do_not_divide_leave_the_rest_to_stages() -> None:
    found = layouts(ServedModel.of(SMOLLM2), parse_cluster("6xh100"))  # 9 heads, 3 of keys and values
    assert [(one.tensor, one.pipeline) for one in found] == [(3, 2), (1, 6)]


def test_more_gpus_than_layers_and_heads_are_refused() -> None:
    with pytest.raises(PlanError, match="Expected GPUs that 9 attention heads and 30 layers can be shared out to"):
        layouts(ServedModel.of(SMOLLM2), parse_cluster("5x8xh100"))


@pytest.mark.parametrize(
    ("tensor", "ways", "said"),
    [
        (8, 1, "with 8 heads on 8 GPUs there are none"),
        (16, 2, "--decode-context-parallel-size 2"),
        (32, 4, "--decode-context-parallel-size 4"),
    ],
)
def test_decode_context_parallel_needs_copies_of_heads(tensor: int, ways: int, said: str) -> None:
    """The rule of vLLM's ``ModelConfig.verify_with_parallel_config``."""
    model, layout = ServedModel.of(LLAMA3_8B), Layout(tensor=tensor, pipeline=1)
    assert most_decode_ways(model, layout) == ways
    prefill, decode = context_parallel_notes(model, layout)
    assert "latent attention (MLA) only" in prefill
    assert said in decode
