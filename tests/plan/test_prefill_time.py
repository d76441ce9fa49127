"""Seconds to the first token and time-outs: facts known of Llama 3 8B, and properties."""

from dataclasses import replace

import pytest

from longrope_vllm.errors import PlanError
from longrope_vllm.plan.cluster import parse_cluster
from longrope_vllm.plan.gpu_memory import Batch, GpuMemory
from longrope_vllm.plan.layout import Layout
from longrope_vllm.plan.prefill_time import PrefillTime, Utilisation, parse_utilisation, prefill_flops
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.plan.timeouts import TimeOuts
from published_models import LLAMA3_8B, LLAMA3_70B, MISTRAL_7B, MIXTRAL_8X7B

MODEL = ServedModel.of(LLAMA3_8B)
EIGHT = parse_cluster("8xh100-80")
M = 1 << 20


def timed(context: int, *, pipeline: int = 1, cluster: str = "8xh100-80", chunk: int = 8192) -> PrefillTime:
    gpus = parse_cluster(cluster)
    layout = Layout(tensor=gpus.count // pipeline, pipeline=pipeline)
    batch = Batch(context=context, chunk=chunk, sequences=64)
    found = PrefillTime.of(GpuMemory.of(MODEL, layout, batch, gpus.gpus.memory), gpus, Utilisation())
    assert found is not None
    return found


@pytest.mark.parametrize(("context", "low", "high"), [(M, 95, 153), (2 * M, 371, 593)])
def test_llama_3_8b_on_eight_h100_takes_what_is_known(context: int, low: float, high: float) -> None:
    found = timed(context)
    assert found.best == pytest.approx(low, rel=0.01)
    assert found.worst == pytest.approx(high, rel=0.01)


def test_operations_are_those_of_the_matrices_and_of_the_pairs_that_see_each_other() -> None:
    tokens = 1000
    by_hand = 2 * (8_030_261_248 - 2 * 128256 * 4096) * tokens + 4 * 4096 * 32 * tokens**2 / 2
    assert prefill_flops(MODEL, tokens) == pytest.approx(by_hand)


def test_a_window_bounds_what_a_token_sees() -> None:
    model = ServedModel.of(MISTRAL_7B)  # 4096
    a_token = prefill_flops(model, 100_001) - prefill_flops(model, 100_000)
    assert a_token == pytest.approx(2 * model.active + 4 * 4096 * 32 * 4096)


def test_idle_experts_cost_nothing() -> None:
    model = ServedModel.of(MIXTRAL_8X7B)
    assert prefill_flops(model, 1) == pytest.approx(2 * 12.6e9, rel=0.01)


def test_stages_wait_while_the_last_chunk_goes_through() -> None:
    one, two = timed(M), timed(M, pipeline=2)
    assert one.best < two.best < 1.02 * one.best
    assert timed(M, pipeline=2, chunk=M).best == pytest.approx(2 * one.best)


def test_gpus_without_known_arithmetic_have_no_time_and_patient_clients() -> None:
    gpus = parse_cluster("8x80")
    memory = GpuMemory.of(MODEL, Layout(tensor=8, pipeline=1), Batch(context=M, chunk=8192, sequences=8), 80 * 10**9)
    assert PrefillTime.of(memory, gpus, Utilisation()) is None
    assert TimeOuts.of(None, 0).proxy_read == 3600  # docs/nginx.conf


@pytest.mark.parametrize(("text", "low", "high"), [("0.4", 0.4, 0.4), ("0.25-0.4", 0.25, 0.4), ("1", 1, 1)])
def test_shares_of_the_peak_are_one_or_two(text: str, low: float, high: float) -> None:
    assert parse_utilisation(text) == Utilisation(low=low, high=high)


@pytest.mark.parametrize("text", ["", "0", "-1", "40", "0.5-0.4", "fast", "nan"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match="Expected a share of the peak"):
        parse_utilisation(text)


@pytest.mark.parametrize("seconds", [0.1, 10, 153, 598, 5000])
def test_each_waits_longer_than_whom_it_waits_for(seconds: float) -> None:
    time = replace(timed(M), best=seconds / 2, worst=seconds)
    told = TimeOuts.of(time, 16 * 10**9)
    assert seconds < told.shutdown < told.grace - told.pre_stop
    assert 2 * seconds < told.client < told.proxy_read
    assert told.liveness >= 300
    assert told.startup >= 1800
    assert told.grace + told.startup < told.progress_deadline


def test_an_answer_is_bound_by_weights_and_keys_and_values() -> None:
    """70B in fp8-free bfloat16 on eight H100 of 3.35 TB/s: 141 GB less the embedding, and nothing cached yet."""
    model, layout = ServedModel.of(LLAMA3_70B), Layout(tensor=8, pipeline=1)
    memory = GpuMemory.of(model, layout, Batch(context=16, chunk=16, sequences=1), 80 * 10**9)
    found = PrefillTime.of(memory, EIGHT, Utilisation())
    assert found is not None
    assert found.tokens_per_second == pytest.approx(8 * 3350e9 / (2 * 69.5e9), rel=0.01)
