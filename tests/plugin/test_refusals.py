"""What would not stay exact is refused by name, before weights are loaded, and what may cross unseen starts long."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the plugin is what vLLM loads")


from longrope_vllm.errors import UnsupportedError
from longrope_vllm.factors import Factors, Origin, Tier
from longrope_vllm.plugin import model_loader
from longrope_vllm.plugin.engine_config import check_exact
from longrope_vllm.plugin.model_runner_v2 import tiered_state
from longrope_vllm.plugin.scheduler import TieredScheduling
from longrope_vllm.plugin.tiers import ServedTiers

SERVED = ServedTiers.from_factors(
    Factors(
        rotary_dim=4,
        base=10_000.0,
        trained_window=100,
        tiers=(Tier(max_length=100, factors=(1.0, 1.0)), Tier(max_length=400, factors=(1.0, 4.0))),
        origin=Origin(method="test"),
    ),
    400,
)


def engine(**changes: Any) -> SimpleNamespace:
    """The fields of a ``VllmConfig`` that are looked at; ``changes`` go where they belong."""
    model = {"uses_mrope": False, "is_encoder_decoder": False, "hf_text_config": SimpleNamespace()}
    parallel = {"use_ubatching": False, "prefill_context_parallel_size": 1}
    return SimpleNamespace(
        model_config=SimpleNamespace(**model | {key: changes[key] for key in changes if key in model}),
        parallel_config=SimpleNamespace(**parallel | {key: changes[key] for key in changes if key in parallel}),
        kv_transfer_config=changes.get("kv_transfer_config"),
    )


def test_an_ordinary_engine_is_served() -> None:
    check_exact(engine())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kv_transfer_config": object()}, "KV connector"),
        ({"use_ubatching": True}, "micro-batches"),
        ({"prefill_context_parallel_size": 2}, "prefill context parallelism"),
        ({"uses_mrope": True}, "M-RoPE"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"hf_text_config": SimpleNamespace(dual_chunk_attention_config={"chunk_size": 8})}, "dual chunk attention"),
        ({"hf_text_config": SimpleNamespace(llama_4_scaling={"beta": 0.1})}, "llama_4_scaling"),
        ({"hf_text_config": SimpleNamespace(model_type="llama4_text")}, "Llama 4"),
    ],
)
def test_what_would_not_stay_exact_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        check_exact(engine(**changes))


def test_a_front_end_that_loads_no_plugin_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(UnsupportedError, match="VLLM_USE_RUST_FRONTEND"):
        check_exact(engine())


def test_every_loader_of_vllm_is_checked() -> None:
    from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER

    model_loader.install()
    loaders = set(_LOAD_FORMAT_TO_MODEL_LOADER.values())
    assert len([loader for loader in loaders if "load_model" in vars(loader)]) >= 1  # some have a method of their own
    assert all(loader.load_model.longrope_wrapped for loader in loaders)


def test_a_loader_that_another_plugin_registers_later_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor import model_loader as theirs

    model_loader.install()
    monkeypatch.setattr(theirs, "_LOAD_FORMAT_TO_MODEL_LOADER", {})

    @theirs.register_model_loader("another")
    class Another(theirs.BaseModelLoader):  # type: ignore[misc]
        def load_model(self, *args: Any, **kwargs: Any) -> None: ...

    assert Another.load_model.longrope_wrapped
    assert {"another": Another} == theirs._LOAD_FORMAT_TO_MODEL_LOADER


def test_the_fields_that_are_looked_at_exist_in_this_vllm() -> None:
    from vllm.config import ModelConfig, ParallelConfig, VllmConfig

    assert "kv_transfer_config" in VllmConfig.__dataclass_fields__
    assert "prefill_context_parallel_size" in ParallelConfig.__dataclass_fields__
    assert hasattr(ParallelConfig, "use_ubatching")
    assert hasattr(ModelConfig, "uses_mrope")
    assert hasattr(ModelConfig, "is_encoder_decoder")


class Queue:
    """The part of a vLLM scheduler that admission touches."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}

    def add_request(self, request: Any) -> None:
        self.requests.setdefault(request.request_id, request)


class TieredQueue(TieredScheduling, Queue):
    def __init__(self) -> None:
        Queue.__init__(self)
        self.served_tiers = SERVED
        self._untold: dict[str, Any] = {}


def asked(tokens: int, *, resumable: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        request_id="r",
        num_tokens=tokens,
        resumable=resumable,
        sampling_params=None,
        cache_salt=None,
        block_hashes=["as hashed by vLLM"],
        update_block_hashes=lambda: None,
    )


@pytest.mark.parametrize(("tokens", "resumable", "tier"), [(100, False, 0), (101, False, 1), (10, True, 1)])
def test_admission_chooses_by_prompt_length_and_streaming_sessions_start_long(
    tokens: int, resumable: bool, tier: int
) -> None:
    queue, request = TieredQueue(), asked(tokens, resumable=resumable)
    queue.add_request(request)
    assert request.longrope_tier == tier
    assert request.cache_salt == SERVED.cache_salt(tier, None)
    assert request.block_hashes == ([] if tier == 0 else ["as hashed by vLLM"])  # hashed anew under the salt


def test_an_update_of_a_session_keeps_its_tier() -> None:
    queue, session = TieredQueue(), asked(10, resumable=True)
    queue.add_request(session)
    queue.add_request(asked(20))
    assert queue.requests == {"r": session}
    assert session.longrope_tier == SERVED.last


def test_a_request_without_a_tier_is_refused_by_the_v2_runner() -> None:
    class State:
        def add_request(self, req_index: int, new_req_data: object) -> None:
            pass

    with pytest.raises(UnsupportedError, match="Expected a rope tier for request chat-1 from the scheduler"):
        tiered_state(State)().add_request(0, SimpleNamespace(req_id="chat-1"))
