"""Run as a program: what passes over wide layers and over many words take of memory, beside what is planned for them.

In: a folder to write tiny checkpoints in. Out: a line of JSON for each pass, bytes over what was resident before.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from longrope_search.candidate import Candidate
from longrope_search.model.memory_plan import MemoryPlan
from longrope_search.model.passages import Passage
from longrope_search.model.scorer import Scorer
from longrope_vllm import Geometry

CPU = torch.device("cpu")
SHAPES = {"warm": (256, 1000, 64), "wide": (8192, 1000, 2048), "words": (256, 64_000, 1200)}
"""Width of the MLP, words, tokens of a pass. The first is for what a process allocates once and for all."""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, (width, words, length) in SHAPES.items():
        checkpoint = _checkpoint(folder / name, width=width, words=words)
        for gradient in (False, True):
            print(json.dumps(_pass(checkpoint, length, gradient=gradient) | {"name": name, "gradient": gradient}))


def _checkpoint(folder: Path, *, width: int, words: int) -> Path:
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=64,
        intermediate_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _pass(checkpoint: Path, length: int, *, gradient: bool) -> dict[str, int]:
    geometry = Geometry.from_checkpoint(checkpoint)
    passage = Passage(name="ones", tokens=torch.ones(length, dtype=torch.int64), counted=length - 1)
    plan = MemoryPlan.of(checkpoint, length=length, dtype=torch.float32, device=CPU, gradient=gradient)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    scorer = Scorer(checkpoint, geometry, dtype=torch.float32, device=CPU)
    scorer.measure(Candidate(factors=(2.0,) * geometry.pairs), passage, gradient=gradient)
    return {"used": _resident("VmHWM") - before, "planned": plan.needed}


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
