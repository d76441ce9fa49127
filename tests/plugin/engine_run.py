"""Run one real vLLM engine over scripted requests, in a process of its own: ``python engine_run.py JOB RESULT``.

JOB is JSON: ``engine`` (arguments of ``vllm.LLM``) and ``requests``, each with ``id``, ``prompt`` (token ids),
``max_tokens`` and ``arrive`` (the engine step before which it is added). RESULT is JSON by request id: the greedy
``tokens``, the ``top`` log-probabilities of each, and, with the plugin, its ``tier`` and ``crossings``.
"""

import json
import sys
from pathlib import Path


def main(job_path: str, result_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    from vllm import LLM, SamplingParams

    llm = LLM(skip_tokenizer_init=True, disable_log_stats=True, seed=0, **job["engine"])
    engine = llm.llm_engine
    waiting = sorted(job["requests"], key=lambda request: request["arrive"])
    results: dict[str, dict[str, object]] = {}
    step = 0
    while waiting or engine.has_unfinished_requests():
        while waiting and (waiting[0]["arrive"] <= step or not engine.has_unfinished_requests()):
            request = waiting.pop(0)
            params = SamplingParams(
                temperature=0.0,
                max_tokens=request["max_tokens"],
                logprobs=5,
                ignore_eos=True,
                detokenize=False,
            )
            engine.add_request(request["id"], {"prompt_token_ids": request["prompt"]}, params)
        for output in engine.step():
            if output.finished:
                answer = output.outputs[0]
                results[output.request_id] = {
                    "tokens": list(answer.token_ids),
                    "top": [
                        {str(token): entry.logprob for token, entry in position.items()}
                        for position in answer.logprobs
                    ],
                    "cached": output.num_cached_tokens,
                }
        step += 1
    core = engine.engine_core.engine_core
    if hasattr(core, "longrope_request"):
        for request_id, result in results.items():
            result["status"] = core.longrope_request(request_id)
    Path(result_path).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
