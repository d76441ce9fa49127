"""Run one streaming-input session and some requests beside it: ``python streaming_run.py JOB RESULT``.

JOB is JSON: ``engine`` (arguments of vLLM), ``parts`` (token ids that the session is sent one after another, each after
the answer to the one before), ``max_tokens`` an answer, and ``beside`` (prompts asked meanwhile). RESULT is JSON: the
session's ``turns`` and the answers ``beside``, each ``tokens`` and ``top`` log-probabilities.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from engine_run import top


async def main(job_path: str, result_path: str) -> None:
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.engine.protocol import StreamingInput
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    job = json.loads(Path(job_path).read_text())
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(skip_tokenizer_init=True, seed=0, **job["engine"]))
    params = SamplingParams(
        temperature=0.0,
        max_tokens=job["max_tokens"],
        logprobs=5,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    answered = asyncio.Semaphore(1)

    async def parts() -> AsyncIterator[StreamingInput]:
        for tokens in job["parts"]:
            await answered.acquire()
            yield StreamingInput(prompt={"prompt_token_ids": tokens})
        await answered.acquire()

    async def session() -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = [{"tokens": [], "top": []}]
        async for output in engine.generate(parts(), params, "session"):
            if len(turns[-1]["tokens"]) == job["max_tokens"]:
                turns.append({"tokens": [], "top": []})
            add(turns[-1], output.outputs[0])
            if len(turns[-1]["tokens"]) == job["max_tokens"]:
                answered.release()
        return turns

    async def one(number: int, tokens: list[int]) -> dict[str, Any]:
        found: dict[str, Any] = {"tokens": [], "top": []}
        async for output in engine.generate({"prompt_token_ids": tokens}, params, f"beside-{number}"):
            add(found, output.outputs[0])
        return found

    turns, *beside = await asyncio.gather(session(), *(one(i, tokens) for i, tokens in enumerate(job["beside"])))
    engine.shutdown()
    Path(result_path).write_text(json.dumps({"turns": turns, "beside": beside}))


def add(found: dict[str, Any], completion: Any) -> None:
    found["tokens"] += completion.token_ids
    found["top"] += [top(position) for position in completion.logprobs or ()]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
