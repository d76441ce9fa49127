"""What lies in a GPU and in a host, part by part."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longrope_vllm import Factors, Geometry
from longrope_vllm.factors import own_tier
from longrope_vllm.gpus import KNOWN, parse_gpus
from longrope_vllm.plan.batch import ARRAY_LIMIT, array_bytes, default_chunk, default_sequences, sane_sequences
from longrope_vllm.plan.cluster import parse_cluster
from longrope_vllm.plan.cpu_memory import CpuMemory
from longrope_vllm.plan.gpu_memory import Batch, GpuMemory
from longrope_vllm.plan.host_memory import HostMemory
from longrope_vllm.plan.layout import Layout
from longrope_vllm.plan.rope_tables import step_bytes, tier_bytes
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.plan.serving import ServingPlan, Wish
from longrope_vllm.rope import RopeTable
from longrope_vllm.tier_table import tier_table
from published_models import LLAMA3_8B, LLAMA3_70B, SMOLLM2

MODEL = ServedModel.of(LLAMA3_8B)
K, M, GIB = 1 << 10, 1 << 20, 1 << 30


def yarn(*lengths: int) -> Factors:
    return Factors.from_baselines([(length, "yarn") for length in lengths], Geometry.from_config(LLAMA3_8B))


@pytest.mark.parametrize("lengths", [(16 * K,), (16 * K, 100_000), (32 * K, M, 2 * M)])
def test_tables_take_what_the_servers_tables_do(lengths: Sequence[int]) -> None:
    factors = yarn(*lengths)
    own, *others = factors.tiers
    assert own == own_tier(factors.geometry)
    real = {own.max_length: RopeTable.of_rows(torch.zeros(own.max_length, 128)).nbytes}
    real |= {tier.max_length: tier_table(factors.geometry, tier).nbytes for tier in others}
    assert tier_bytes(MODEL, factors, factors.max_length) == real


def test_start_tokens_take_rows_of_their_own() -> None:
    factors = yarn(M)
    tier = replace(factors.tiers[-1], start_tokens=2000)
    started = replace(factors, tiers=(factors.tiers[0], tier))
    assert tier_bytes(MODEL, started, M)[M] == tier_table(factors.geometry, tier).nbytes


def test_a_shorter_server_has_fewer_tiers_and_one_tier_a_row_for_each_position() -> None:
    factors = yarn(16 * K, M)
    assert list(tier_bytes(MODEL, factors, 512 * K)) == [8 * K, 16 * K, 512 * K]
    assert tier_bytes(MODEL, factors, 8 * K) == {8 * K: 8 * K * 128 * 2}
    assert step_bytes(MODEL, 8192, tiers=1) == 0


def test_factors_that_are_yet_to_be_found_are_two_tiers() -> None:
    assert list(tier_bytes(MODEL, None, M)) == [8 * K, M]


def planned(gpus: str, context: int) -> ServingPlan:
    return ServingPlan.of(MODEL, Wish(context=context, cluster=parse_cluster(gpus)))


def test_a_million_tokens_of_llama_3_8b_fit_eight_gpus_of_80_gb_and_not_one() -> None:
    assert planned("8xh100", M).fits
    assert planned("8xh100", 2 * M).fits
    assert not planned("h100", M).fits


def test_the_weights_of_all_gpus_are_those_of_the_model() -> None:
    memory = GpuMemory.of(MODEL, Layout(tensor=8, pipeline=1), Batch(context=M, chunk=8192, sequences=8), 80 * 10**9)
    assert 8 * memory.weights == pytest.approx(MODEL.weight_bytes, rel=1e-6)
    assert memory.pool == memory.budget - sum(memory.parts.values())
    assert memory.longest // 16 == pytest.approx(memory.concurrent * M / 16, rel=1e-3)


def test_the_last_stage_has_the_head_too() -> None:
    big = ServedModel.of(LLAMA3_70B)
    memory = GpuMemory.of(big, Layout(tensor=8, pipeline=4), Batch(context=M, chunk=8192, sequences=8), 80 * 10**9)
    head = 128256 * 8192 * 2
    assert 8 * memory.weights == pytest.approx((big.weight_bytes - 2 * head) / 4 + head)


def test_a_step_of_the_whole_context_is_what_runs_out_of_memory() -> None:
    wish = Wish(context=M, cluster=parse_cluster("2xh200"))
    assert ServingPlan.of(MODEL, wish).fits
    assert ServingPlan.of(MODEL, replace(wish, chunk=M)).gpu.step > 60e9
    assert not ServingPlan.of(MODEL, replace(wish, chunk=M)).fits


def test_token_arrays_of_a_thousand_sequences_of_two_million_take_8_gib_of_ids() -> None:
    ids = 4 * 1024 * 2 * M
    assert ids == 8 * GIB
    assert array_bytes(2 * M, 1024) == ids * 5 / 4  # and a byte each of vLLM's V1 model runner


@pytest.mark.parametrize(
    ("context", "expected"), [(8 * K, 1024), (128 * K, 1024), (256 * K, 512), (M, 128), (2 * M, 64), (1 << 31, 1)]
)
def test_fewer_sequences_keep_these_arrays_small(context: int, expected: int) -> None:
    found = sane_sequences(context, 1024)
    assert found == expected
    assert found == 1 or array_bytes(context, found) <= ARRAY_LIMIT


@pytest.mark.parametrize("name", KNOWN)
def test_defaults_are_those_of_vllm_where_it_has_them(name: str) -> None:
    """``EngineArgs.get_batch_defaults``, whose 2,048 tokens of a step on an A100 are lifted here."""
    gpus = parse_gpus(name)
    large = gpus.memory >= 70 * GIB and not name.startswith("a100")
    assert default_sequences(gpus) == (1024 if large else 256)
    if large:
        assert default_chunk(gpus) == (16_384 if gpus.memory >= 160 * GIB else 8192)


def test_every_worker_of_a_node_has_its_own_arrays() -> None:
    batch = Batch(context=M, chunk=8192, sequences=128)
    host = HostMemory.of(MODEL, Layout(tensor=8, pipeline=2, nodes=2), batch)
    assert host.workers == 8
    assert host.parts["arrays"] == 8 * array_bytes(M, 128)
    assert host.needed == sum(host.parts.values())


def test_a_cpu_server_takes_its_cache_its_weights_and_its_processes(tmp_path: Path) -> None:
    small = ServedModel.of(SMOLLM2)
    memory = CpuMemory.of(small, Batch(context=16 * K, chunk=2048, sequences=128, block=128), GIB)
    assert memory.needed == sum(memory.parts.values())
    assert memory.sequence == 22.5 * K * 16 * K
    assert memory.fits
    assert memory.copies == 49152 * 576 * 2
    assert memory.freed == 2 * (small.active - 30 * 2 * 576 - 576)  # all matrices are small, norms are none
