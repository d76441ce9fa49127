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


def test_the_rope_cache_still_does_not_know_the_length_of_a_server() -> None:
    # forget_tables() in rotary.py can go when this fails.
    from vllm.model_executor.layers.rotary_embedding import get_rope

    assert "max_model_len" not in inspect.getsource(get_rope)


UNKNOWN_FIELD = """
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
request = ChatCompletionRequest(model="m", messages=[], longrope_tier="128k")
params = request.to_sampling_params(16, {})
print(params.extra_args)
"""


def test_vllm_still_drops_request_fields_that_it_does_not_know() -> None:
    # The request half of http_fields.py can go when this fails.
    assert in_a_fresh_process(UNKNOWN_FIELD, plugins="") == "None"


def test_no_plugin_sees_a_request_before_it_is_queued() -> None:
    # input_processor.py can go when this fails.
    from vllm.v1.engine.input_processor import InputProcessor

    assert "plugin" not in inspect.getsource(InputProcessor.process_inputs).lower()


def test_an_output_of_the_engine_still_has_no_field_for_plugins() -> None:
    # Sending a status in the field of KV connectors (scheduler.py, output_processor.py) can go when this fails.
    from vllm.v1.engine import EngineCoreOutput

    fields = EngineCoreOutput.__struct_fields__
    assert "kv_transfer_params" in fields
    assert not [name for name in fields if "extra" in name or "plugin" in name or "custom" in name]


def test_the_range_still_holds_versions_that_ignore_fields_of_a_yarn_block() -> None:
    # check_own_rope() in compat.py can go when this fails.
    assert compat.is_supported("0.31.0")


IMPORTED = (
    "import sys\n"
    "from vllm.engine.arg_utils import EngineArgs\n"
    "EngineArgs(model=sys.argv[1], skip_tokenizer_init=True).create_engine_config()\n"
    "print(*sorted(name for name in sys.modules if name.partition('.')[0] in ('vllm', 'torch', 'transformers')))\n"
)


def test_a_process_that_configures_another_model_imports_nothing_more_for_the_plugin(tmp_path: Path) -> None:
    plain = str(tiny_llama(tmp_path))
    assert in_a_fresh_process(IMPORTED, plain, plugins="longrope") == in_a_fresh_process(IMPORTED, plain, plugins="")


@pytest.mark.parametrize("version", ["0.25.1", "0.32.0", "0.33.2", "0.33.0.dev5+g0123abc"])
def test_versions_in_the_range_are_supported(version: str) -> None:
    assert compat.is_supported(version)


@pytest.mark.parametrize("version", ["0.25.0", "0.34.0", "1.0.0", "dev"])
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
