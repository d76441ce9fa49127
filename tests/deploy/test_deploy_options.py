"""Every command line in deploy/ is one that ``longrope serve`` and vLLM take: read by their own parsers."""

import argparse
import shlex
from argparse import Namespace

import pytest

from deployed_services import command_of_unit, composed
from longrope_vllm.cli import serve
from longrope_vllm.server.launch import parse_engine_options
from manifests import OVERLAYS, container, manifests, servers, values


def parsed(arguments: list[str]) -> tuple[Namespace, Namespace]:
    """Our options and vLLM's; what neither knows ends in ``SystemExit``."""
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    ours, rest = parser.parse_known_args(arguments)
    return ours, parse_engine_options(rest)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pods_command_is_taken_and_says_what_was_planned(overlay: str) -> None:
    planned = values(overlay)
    for rank, pod in enumerate(servers(manifests(overlay))):
        words = [word.replace("$(LWS_WORKER_INDEX)", str(rank)) for word in container(pod)["args"]]
        ours, engine = parsed([word.replace("$(LWS_LEADER_ADDRESS)", "127.0.0.1") for word in words])
        assert ours.tiers is not None
        assert engine.model == planned["model"]
        assert engine.max_model_len == planned["context"]
        layout = engine.tensor_parallel_size, engine.pipeline_parallel_size, engine.nnodes, engine.node_rank
        assert layout == (*(planned["pipeline"][name] for name in ("tensor", "stages", "nodes")), rank)
        assert engine.shutdown_timeout == planned["shutdownTimeout"]
        assert engine.headless == (rank > 0)
        assert engine.port == 8000


def test_the_commands_of_compose_and_systemd_are_taken() -> None:
    first, *composes = shlex.split(composed()["longrope"]["command"])
    program, second, *systemds = command_of_unit()
    assert (first, program, second) == ("serve", "/opt/longrope/bin/longrope", "serve")
    for arguments in (composes, systemds):
        ours, engine = parsed(arguments)
        assert ours.keys is not None
        assert ours.progress_limit == 300  # of the plan, as in the chart
        assert engine.port == 8000
