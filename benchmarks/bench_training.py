"""Training against a plain loop of transformers' Trainer: memory and tokens a second by length, on one model.

    python benchmarks/bench_training.py MODEL --documents SOURCE --out PAGE.md [--factors FILE]
        [--tuning full|lora] [--plain 2k,4k,8k] [--ours 12k,16k] [--training="--offload"]

The plain loop is what its documentation shows: the model in float32 under bfloat16 autocast, labels given, loss by
the model; with ``--tuning lora`` in bfloat16, with peft's adapters of rank 8 on all linear layers. It runs as it is,
and with gradient checkpointing. Ours is ``longrope train``, which trains past the window only, with YaRN's factors
where no file is named, and the options in ``--training``. On the GPU where there is one. Each runs two steps of one row
in a process of its own; memory is the peak of that process, tokens a second those of the second step. The page is
written anew after each.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.lengths import format_length, parse_lengths
from report import command_line, provenance

STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way of training at one length."""

    way: str
    length: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What it took."""

    case: Case
    memory: int = 0
    """Bytes at most."""
    tokens_per_second: float = 0.0
    code: int = 0
    """Exit code of its process; not 0 where memory did not suffice, or anything else went wrong."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all cases, each in a process of its own, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--factors", type=Path)
    parser.add_argument("--documents", required=True)
    parser.add_argument("--tuning", choices=("full", "lora"), default="full")
    parser.add_argument("--plain", default="2k,4k,8k")
    parser.add_argument("--ours", default="12k,16k")
    parser.add_argument("--training", default="", help="options of longrope train, in one word")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.case is not None:
        way, length = asked.case.split("@")
        print(json.dumps(_WAYS[way](asked, int(length))))
        return
    ours_at, window = parse_lengths(asked.ours), Geometry.from_checkpoint(asked.model).trained_window
    if asked.factors is None and min(ours_at) <= window:
        parser.error(f"expected lengths above the window of {window:,} in --ours, found {min(ours_at):,}")
    plain = [Case(way=way, length=length) for way in _WAYS if way != OURS for length in parse_lengths(asked.plain)]
    ours = [Case(way=OURS, length=length) for length in ours_at]
    found: list[Measured] = []
    for case in plain + ours:
        found.append(_in_a_process(case))
        asked.out.write_text(_page(found, (plain + ours)[len(found) :]), encoding="utf-8")


def _in_a_process(case: Case) -> Measured:
    command = [sys.executable, __file__, *sys.argv[1:], "--case", f"{case.way}@{case.length}"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        print(f"{case}: ended with {run.returncode}", flush=True)
        return Measured(case=case, code=run.returncode)
    memory, speed = json.loads(run.stdout.splitlines()[-1])
    print(f"{case}: {memory / 1e9:.2f} GB, {speed:.0f} tokens/s", flush=True)
    return Measured(case=case, memory=memory, tokens_per_second=speed)


def _plain(asked: argparse.Namespace, length: int, *, checkpointing: bool) -> tuple[int, float]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from longrope_training.metrics import peak_memory
    from longrope_vllm.evaluation.documents import cut_documents
    from longrope_vllm.evaluation.loading import tokenizer_at

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ends = [monotonic()]

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(monotonic())

    clock = Clock()
    documents = cut_documents([asked.documents], tokenizer_at(str(asked.model)), length=length, count=STEPS)
    rows = [{"input_ids": document.tokens, "labels": document.tokens} for document in documents]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=1,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=checkpointing,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        dtype = torch.bfloat16 if asked.tuning == "lora" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype)
        if asked.tuning == "lora":
            model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
            model.enable_input_require_grads()  # else nothing before the first adapter has a gradient to checkpoint
        Trainer(model=model, args=settings, train_dataset=rows, callbacks=[clock]).train()
    return peak_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu")), length / (
        clock.ends[-1] - clock.ends[-2]
    )


def _as_it_is(asked: argparse.Namespace, length: int) -> tuple[int, float]:
    return _plain(asked, length, checkpointing=False)


def _with_checkpointing(asked: argparse.Namespace, length: int) -> tuple[int, float]:
    return _plain(asked, length, checkpointing=True)


def _ours(asked: argparse.Namespace, length: int) -> tuple[int, float]:
    from longrope_training.metrics import read_metrics
    from longrope_vllm.cli.main import main as longrope

    with tempfile.TemporaryDirectory() as folder:
        factors = asked.factors or _yarn(asked.model, length, Path(folder) / "factors.json")
        words = ["train", str(asked.model), "--factors", str(factors), "--stage", f"{length}:{STEPS}"]
        words += ["--tuning", asked.tuning, "--batch", "1", "--data", asked.documents, "--out", f"{folder}/out"]
        # Factors that nobody searched may begin far above what the model had, which is no matter of memory or speed.
        words += ["--first-loss", "none", *shlex.split(asked.training)]
        stdout = os.dup(1)
        os.dup2(2, 1)  # what it prints is not the result
        try:
            code = longrope(words)
        finally:
            os.dup2(stdout, 1)
        steps = read_metrics(Path(folder) / "out" / "metrics.jsonl")
        if len(steps) < STEPS:  # what fails behind them, such as a full disk, has not to do with it
            sys.exit(code or 1)
        last = steps[-1]
    return last["memory"], last["tokens_per_second"]


def _yarn(model: Path, length: int, file: Path) -> Path:
    write_factors(file, Factors.from_baseline("yarn", Geometry.from_checkpoint(model), length))
    return file


OURS = "longrope train"
_WAYS = {"Trainer": _as_it_is, "Trainer, checkpointing": _with_checkpointing, OURS: _ours}


def _page(found: Sequence[Measured], left: Sequence[Case]) -> str:
    rows = [
        f"| {one.case.way} | {format_length(one.case.length)} | "
        + (f"ended with {one.code} | |" if one.code else f"{one.memory / 1e9:.2f} | {one.tokens_per_second:,.0f} |")
        for one in found
    ]
    rows += [f"| {case.way} | {format_length(case.length)} | not run yet | |" for case in left]
    table = "\n".join(rows)
    return f"""# Training by length: memory and speed

{provenance(command_line("bench_training.py", sys.argv[1:]), "transformers")}

| way | tokens of a row | GB at most | tokens/s |
|---|---:|---:|---:|
{table}

- what ended with a code did not get through {STEPS} steps: for want of memory, unless its output says otherwise.
"""


if __name__ == "__main__":
    main()
