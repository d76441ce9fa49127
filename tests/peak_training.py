"""Run as a program: what steps of training take of memory beside the weights, with what is planned for them.

In: a folder to write tiny checkpoints in. Out: a line of JSON for each step, bytes over what was resident before.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from longrope_training.memory_plan import Layout, TrainingMemory
from longrope_training.model_shape import ModelShape

CASES = {
    "warm": (64, 64, 1, 64, True),
    "wide": (64, 4096, 1, 704, True),
    "deep": (256, 512, 12, 1664, True),
    "all kept": (256, 1024, 3, 768, False),
}
"""Hidden size, width of the MLP, layers, tokens, checkpointing. The first is for what is allocated once and for all."""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, (hidden, width, layers, length, checkpointing) in CASES.items():
        model = _model(hidden, width, layers)
        model.save_pretrained(folder / name)
        layout = Layout(length=length, tuning="full", checkpointing=checkpointing, size=4, cuda=False)
        planned = TrainingMemory.of(ModelShape.of(folder / name), layout)
        used = _step(model, length, checkpointing)
        print(json.dumps({"name": name, "used": used, "planned": planned.kept + planned.layer + planned.head}))


def _model(hidden: int, width: int, layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=4096,
    )
    return LlamaForCausalLM(config)


def _step(model: LlamaForCausalLM, length: int, checkpointing: bool) -> int:
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    hidden = model.base_model(torch.ones(1, length, dtype=torch.long), use_cache=False).last_hidden_state
    hidden.square().mean().backward()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
