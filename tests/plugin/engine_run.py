"""Run one real vLLM engine over scripted requests, in a process of its own: ``python engine_run.py JOB RESULT``.

JOB is JSON: ``engine`` (arguments of ``vllm.LLM``), ``cache_salt`` (false: the tiers' share of the
prefix-cache key is left out, which is wrong), ``warm_up`` (as a GPU's worker does) and ``requests``, each with ``id``,
``prompt`` (token ids), ``max_tokens``, ``arrive`` (the engine step before which it is added) and, if the client gives
them, ``salt``, ``priority``, ``fields`` (of the plugin), ``params`` (of ``SamplingParams``), ``regex`` and ``lora`` (a
folder). RESULT is JSON by request id: the greedy ``tokens``, the ``top`` log-probabilities of each, ``cached`` prompt
tokens, ``preemptions``, the ``choices`` of a request that wants several, the ``prompt`` log-probabilities of one that
wants them and, with the plugin, the ``status`` it reports.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(job_path: str, result_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    engine = started_engine(job)
    core = engine.engine_core.engine_core
    if job.get("warm_up"):
        warm_up(core.model_executor.driver_worker.worker)
    waiting = sorted(job["requests"], key=lambda request: request["arrive"])
    results: dict[str, dict[str, object]] = {}
    preemptions: dict[str, int] = {}
    step = 0
    while waiting or engine.has_unfinished_requests():
        if not engine.has_unfinished_requests():
            step = max(step, waiting[0]["arrive"])  # nothing to do until then
        while waiting and waiting[0]["arrive"] <= step:
            add(engine, waiting.pop(0))
        outputs = engine.step()
        for known, running in core.scheduler.requests.items():  # the engine appends a suffix to the id
            preemptions[known.rpartition("-")[0]] = running.num_preemptions
        for output in outputs:
            if output.finished:
                results[output.request_id] = answer(output) | {"preemptions": preemptions.get(output.request_id, 0)}
        step += 1
    if hasattr(core, "longrope_request"):
        for request_id, result in results.items():
            result["status"] = core.longrope_request(request_id)
    Path(result_path).write_text(json.dumps(results))


def started_engine(job: dict[str, Any]) -> Any:
    """The engine of a job, with what the job wants of this process."""
    if os.environ.get("TRITON_INTERPRET"):
        allow_triton_interpreter()
    if job["engine"].get("async_scheduling"):
        allow_async_scheduling()
    if not job.get("cache_salt", True):
        leave_out_the_cache_salt()
    from vllm import LLM

    # Asynchronous scheduling is on by default on CUDA, and off on the CPU.
    defaults = {"skip_tokenizer_init": True, "disable_log_stats": True, "seed": 0, "async_scheduling": False}
    engine = LLM(**defaults | job["engine"]).llm_engine
    scheduler_config = engine.vllm_config.scheduler_config
    assert scheduler_config.async_scheduling == bool(job["engine"].get("async_scheduling"))
    return engine


def warm_up(worker: Any) -> None:
    """What a GPU's worker does between loading and serving, and a CPU's does not; on the V2 runner.

    All but a grammar and random sampling, whose kernels Triton's interpreter cannot run.
    """
    from vllm import SamplingParams
    from vllm.v1.worker.gpu.warmup import run_mixed_prefill_decode_warmup, warmup_kernels

    def sample_tokens(grammar: object) -> Any:
        return worker.sample_tokens(None)

    SamplingParams.for_sampler_warmup = staticmethod(lambda: SamplingParams(temperature=0.0))
    asked = worker.model_runner, worker.execute_model, sample_tokens
    warmup_kernels(*asked)
    assert run_mixed_prefill_decode_warmup(*asked, num_tokens=8)


def add(engine: Any, request: dict[str, Any]) -> str:
    """Hand one request of a job to the engine; the id it has inside."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    regex, lora = request.get("regex"), request.get("lora")
    defaults = {"temperature": 0.0, "logprobs": 5, "ignore_eos": True, "detokenize": False}
    params = SamplingParams(
        max_tokens=request["max_tokens"],
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args=request.get("fields"),
        structured_outputs=None if regex is None else StructuredOutputsParams(regex=regex),
        **defaults | request.get("params", {}),
    )
    prompt = {"prompt_token_ids": request["prompt"]}
    if "salt" in request:
        prompt["cache_salt"] = request["salt"]
    known: str = engine.add_request(
        request["id"],
        prompt,
        params,
        priority=request.get("priority", 0),
        lora_request=None if lora is None else LoRARequest("adapter", 1, lora),
    )
    return known


def answer(output: Any) -> dict[str, object]:
    """What a finished request was answered."""
    found: dict[str, object] = sampled(output.outputs[0]) | {"cached": output.num_cached_tokens}
    if len(output.outputs) > 1:
        found["choices"] = [sampled(choice) for choice in output.outputs]
    if output.prompt_logprobs is not None:
        found["prompt"] = [None if position is None else top(position) for position in output.prompt_logprobs]
    return found


def sampled(completion: Any) -> dict[str, object]:
    """Tokens and log-probabilities of one choice."""
    return {"tokens": list(completion.token_ids), "top": [top(position) for position in completion.logprobs]}


def top(position: dict[int, Any]) -> dict[str, float]:
    """Log-probabilities of one position by token, as JSON holds them."""
    return {str(token): entry.logprob for token, entry in position.items()}


def leave_out_the_cache_salt() -> None:
    """Break the plugin on purpose: blocks of all tiers have one key, as if tokens alone made a block."""
    from longrope_vllm.plugin.tiers import ServedTiers

    ServedTiers.cache_salt = lambda self, index, client_salt: client_salt


def allow_triton_interpreter() -> None:
    """Let vLLM use Triton without a GPU: kernels run in its interpreter, but vLLM wants to see a "cpu" backend."""
    from triton.backends import backends

    backends["cpu"] = backends["nvidia"]  # only its presence is looked at


def allow_async_scheduling() -> None:
    """Keep asynchronous scheduling on the CPU, where vLLM switches it off as not required, although it works."""
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__

    def keeping_it(cls: type, vllm_config: Any) -> None:
        check(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(keeping_it)


if __name__ == "__main__":
    main(*sys.argv[1:])
