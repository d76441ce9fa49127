"""Fixtures for tests with a real vLLM engine: checkpoints, and an engine run in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine_jobs import Results, RunEngine
from tiny_models import stretched, tiny_llama

LIMIT = 570  # seconds: an engine that hangs must not hold a test run for ever


@pytest.fixture(scope="session")
def base_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def longrope_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as ``base_checkpoint``, with a plain short tier and a YaRN long one."""
    return stretched(tiny_llama(tmp_path_factory.mktemp("longrope")))


@pytest.fixture(scope="session")
def run_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """``run(script, plugins, model, requests, **engine)``: what a driver beside this file makes of a job.

    ``v2_runner=True`` takes vLLM's second model runner, the default on GPUs; without a GPU its Triton kernels are
    interpreted. ``job`` holds further fields of the job.
    """

    def run(
        script: str,
        plugins: str,
        model: Path,
        requests: list[dict[str, Any]],
        *,
        v2_runner: bool = False,
        job: dict[str, Any] | None = None,
        **engine: Any,
    ) -> Any:
        folder = tmp_path_factory.mktemp("engine")
        asked, result = folder / "job.json", folder / "result.json"
        defaults = {
            "model": str(model),
            "dtype": "float32",
            "enforce_eager": True,
            "max_num_batched_tokens": 128,  # less than most prompts: prefill is chunked
            "max_num_seqs": 8,
        }
        fields = {"engine": defaults | engine, "requests": requests}
        asked.write_text(json.dumps(fields | (job or {})))
        environment = os.environ | {
            "VLLM_PLUGINS": plugins,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # Models this small gain nothing from a second thread and lose much when others want the cores.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        }
        if "kv_cache_memory_bytes" not in engine:  # the variable would win over it
            environment |= {"VLLM_CPU_KVCACHE_SPACE": "1"}
        if engine.get("tensor_parallel_size", 1) * engine.get("pipeline_parallel_size", 1) > 1:
            # without a binding each worker wants every core
            environment |= {"VLLM_CPU_OMP_THREADS_BIND": "|".join(map(str, sorted(os.sched_getaffinity(0))[:2]))}
        environment |= {"VLLM_USE_V2_MODEL_RUNNER": str(int(v2_runner))}
        if v2_runner and not torch.cuda.is_available():
            environment |= {"TRITON_INTERPRET": "1"}
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(script)), str(asked), str(result)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return json.loads(result.read_text())

    return run


@pytest.fixture(scope="session")
def run_engine(run_job: Callable[..., Any]) -> RunEngine:
    """``run(plugins, model, requests, **engine)``: answers by request id (see ``engine_run.py``)."""

    def run(plugins: str, model: Path, requests: list[dict[str, Any]], **engine: Any) -> Results:
        answers: Results = run_job("engine_run.py", plugins, model, requests, **engine)
        return answers

    return run
