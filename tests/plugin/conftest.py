"""Fixtures for tests with a real vLLM engine: checkpoints, and an engine run in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine_jobs import Results, RunEngine
from tiny_models import stretched, tiny_llama


@pytest.fixture(scope="session")
def base_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def longrope_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as ``base_checkpoint``, with a plain short tier and a YaRN long one."""
    return stretched(tiny_llama(tmp_path_factory.mktemp("longrope")))


@pytest.fixture(scope="session")
def run_engine(tmp_path_factory: pytest.TempPathFactory) -> RunEngine:
    """``run(plugins, model, requests, **engine)``: answers by request id (see ``engine_run.py``).

    ``v2_runner=True`` takes vLLM's second model runner, the default on GPUs, with its Triton kernels interpreted.
    """

    def run(
        plugins: str, model: Path, requests: list[dict[str, Any]], *, v2_runner: bool = False, **engine: Any
    ) -> Results:
        folder = tmp_path_factory.mktemp("engine")
        job, result = folder / "job.json", folder / "result.json"
        defaults = {
            "model": str(model),
            "dtype": "float32",
            "enforce_eager": True,
            "max_num_batched_tokens": 128,  # less than most prompts: prefill is chunked
            "max_num_seqs": 8,
        }
        job.write_text(json.dumps({"engine": defaults | engine, "v2_runner": v2_runner, "requests": requests}))
        environment = os.environ | {
            "VLLM_PLUGINS": plugins,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
        if "kv_cache_memory_bytes" not in engine:  # the variable would win over it
            environment |= {"VLLM_CPU_KVCACHE_SPACE": "1"}
        if engine.get("tensor_parallel_size", 1) > 1:  # without a binding each worker wants every core
            environment |= {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, sorted(os.sched_getaffinity(0))[:2]))}
        if v2_runner:
            environment |= {"VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1"}
        script = Path(__file__).with_name("engine_run.py")
        done = subprocess.run(
            [sys.executable, str(script), str(job), str(result)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        answers: Results = json.loads(result.read_text())
        return answers

    return run
