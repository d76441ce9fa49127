"""Several engines one after another in one process, as in a notebook: patches and vLLM's rope cache outlive each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine_jobs import prompt
from tiny_models import WINDOW

pytestmark = pytest.mark.vllm

SCRIPT = """
import gc, json, sys
from vllm import LLM, SamplingParams
answers = []
for model, length in json.loads(sys.argv[1]):
    llm = LLM(model=model, max_model_len=length, dtype="float32", enforce_eager=True, skip_tokenizer_init=True)
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": tokens[: length - 8]} for tokens in json.loads(sys.argv[2])]
    answers.append([list(output.outputs[0].token_ids) for output in llm.generate(prompts, params, use_tqdm=False)])
    del llm
    gc.collect()
print(json.dumps(answers))
"""


def answers(engines: list[tuple[Path, int]]) -> list[list[list[int]]]:
    prompts = [prompt(100), prompt(600)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([[str(model), n] for model, n in engines]), json.dumps(prompts)],
        env=os.environ
        | {"VLLM_PLUGINS": "longrope", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[list[list[int]]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_a_later_engine_answers_as_in_a_process_of_its_own(base_checkpoint: Path, longrope_checkpoint: Path) -> None:
    engines = [(longrope_checkpoint, WINDOW - 40), (longrope_checkpoint, 400), (longrope_checkpoint, 768)]
    engines += [(base_checkpoint, WINDOW)]
    together = answers(engines)
    assert together[2] == answers([engines[2]])[0]
    assert together[3] == answers([engines[3]])[0]
