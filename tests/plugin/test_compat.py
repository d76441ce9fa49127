"""Each patch of vLLM has a reason; these tests fail when the installed vLLM no longer gives it."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="these tests look at the installed vLLM")

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin import compat
from tiny_models import LONG, WINDOW, stretched, tiny_llama

pytestmark = pytest.mark.compat


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stretched(tiny_llama(tmp_path_factory.mktemp("compat")))


def in_a_fresh_process(script: str, *arguments: str, plugins: str) -> str:
    """Standard output of ``script``: plugins patch a process for good, so each case gets its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={"VLLM_PLUGINS": plugins, "VLLM_LOGGING_LEVEL": "ERROR", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


DEFAULT_LENGTH = (
    "import sys\n"
    "from vllm.engine.arg_utils import EngineArgs\n"
    "config = EngineArgs(model=sys.argv[1], skip_tokenizer_init=True).create_engine_config()\n"
    "print(config.model_config.max_model_len, config.compute_hash())\n"
)


def test_stock_vllm_still_serves_only_the_trained_window_by_default(checkpoint: Path) -> None:
    # max_model_len.py can go when this fails.
    length, stock_hash = in_a_fresh_process(DEFAULT_LENGTH, str(checkpoint), plugins="").split()
    assert int(length) == WINDOW
    length, our_hash = in_a_fresh_process(DEFAULT_LENGTH, str(checkpoint), plugins="longrope").split()
    assert int(length) == LONG
    assert our_hash != stock_hash


def test_the_compile_cache_key_still_knows_nothing_of_plugins() -> None:
    # The fingerprint in engine_config.py can go when this fails.
    from vllm.config import VllmConfig

    assert "plugin" not in inspect.getsource(VllmConfig.compute_hash).lower()


def test_the_stock_longrope_class_still_cannot_be_replaced_through_a_registry() -> None:
    # install() in rotary.py can use the registry when this fails.
    from vllm.model_executor.custom_op import CustomOp
    from vllm.model_executor.layers.rotary_embedding import phi3_long_rope_scaled_rope as stock

    assert not issubclass(stock.Phi3LongRoPEScaledRotaryEmbedding, CustomOp)


def test_vllm_still_has_no_rope_per_request() -> None:
    # scheduler.py and the model runner patches can go when this fails.
    from vllm.v1.core.sched.output import CachedRequestData, NewRequestData

    fields = [field.name for kind in (NewRequestData, CachedRequestData) for field in dataclasses.fields(kind)]
    assert not [name for name in fields if "rope" in name or "rotary" in name]


@pytest.mark.parametrize("version", ["0.25.1", "0.32.0", "0.33.2", "0.33.0.dev5+g0123abc"])
def test_versions_in_the_range_are_supported(version: str) -> None:
    assert compat.is_supported(version)


@pytest.mark.parametrize("version", ["0.25.0", "0.34.0", "1.0.0"])
def test_versions_out_of_the_range_are_not(version: str) -> None:
    assert not compat.is_supported(version)


def test_the_installed_vllm_is_in_the_range() -> None:
    assert compat.is_supported(compat.vllm_version())


UNSUPPORTED = """
import sys, torch, vllm
vllm.__version__ = "0.99.0"
from longrope_vllm.plugin import register
register()
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding import get_rope
with set_current_vllm_config(VllmConfig()):
    get_rope(64, 128, rope_parameters={"rope_type": "default", "rope_theta": 1e4}, dtype=torch.float32)
    block = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 32, "long_factor": [2.0] * 32,
             "original_max_position_embeddings": 64}
    try:
        get_rope(64, 128, rope_parameters=block, dtype=torch.float32)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_an_unsupported_vllm_serves_other_models_and_refuses_longrope() -> None:
    answer = in_a_fresh_process(UNSUPPORTED, plugins="")
    assert answer.startswith("UnsupportedError longrope-vllm serves longrope checkpoints on vLLM")
    assert "found 0.99.0" in answer


def test_a_yarn_block_that_vllm_would_read_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers.rotary_embedding.yarn_scaling_rope import YaRNScalingRotaryEmbedding

    block = {"factor": 4.0, "attention_factor": 1.0}
    compat.check_own_rope("yarn", block)  # this vLLM reads it
    monkeypatch.setattr(YaRNScalingRotaryEmbedding, "__init__", lambda self, head_size, attn_factor: None)
    compat.check_own_rope("yarn", {"factor": 4.0})
    compat.check_own_rope("linear", block)
    with pytest.raises(UnsupportedError, match="reads attention_factor of the checkpoint's yarn rope"):
        compat.check_own_rope("yarn", block)
