"""Run one real vLLM engine over scripted requests, in a process of its own: ``python engine_run.py JOB RESULT``.

JOB is JSON: ``engine`` (arguments of ``vllm.LLM``), ``v2_runner`` and ``requests``, each with ``id``, ``prompt`` (token
ids), ``max_tokens`` and ``arrive`` (the engine step before which it is added). RESULT is JSON by request id: the greedy
``tokens``, the ``top`` log-probabilities of each, ``cached`` prompt tokens, ``preemptions`` and, with the plugin, the
``status`` it reports.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(job_path: str, result_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    if job["v2_runner"]:
        allow_triton_interpreter()
    if job["engine"].get("async_scheduling"):
        allow_async_scheduling()
    from vllm import LLM, SamplingParams

    llm = LLM(skip_tokenizer_init=True, disable_log_stats=True, seed=0, **job["engine"])
    engine = llm.llm_engine
    waiting = sorted(job["requests"], key=lambda request: request["arrive"])
    results: dict[str, dict[str, object]] = {}
    core = engine.engine_core.engine_core
    assert core.scheduler.scheduler_config.async_scheduling == bool(job["engine"].get("async_scheduling"))
    preemptions: dict[str, int] = {}
    step = 0
    while waiting or engine.has_unfinished_requests():
        if not engine.has_unfinished_requests():
            step = max(step, waiting[0]["arrive"])  # nothing to do until then
        while waiting and waiting[0]["arrive"] <= step:
            request = waiting.pop(0)
            params = SamplingParams(
                temperature=0.0,
                max_tokens=request["max_tokens"],
                logprobs=5,
                ignore_eos=True,
                detokenize=False,
            )
            engine.add_request(request["id"], {"prompt_token_ids": request["prompt"]}, params)
        outputs = engine.step()
        for known, running in core.scheduler.requests.items():  # the engine appends a suffix to the id
            preemptions[known.rpartition("-")[0]] = running.num_preemptions
        for output in outputs:
            if output.finished:
                answer = output.outputs[0]
                results[output.request_id] = {
                    "tokens": list(answer.token_ids),
                    "top": [
                        {str(token): entry.logprob for token, entry in position.items()} for position in answer.logprobs
                    ],
                    "cached": output.num_cached_tokens,
                    "preemptions": preemptions.get(output.request_id, 0),
                }
        step += 1
    if hasattr(core, "longrope_request"):
        for request_id, result in results.items():
            result["status"] = core.longrope_request(request_id)
    Path(result_path).write_text(json.dumps(results))


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
