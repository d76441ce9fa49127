"""A tiny random LoRA adapter for a tiny checkpoint, and the same weights merged into it."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "k_proj", "v_proj")


def tiny_adapter(folder: Path, checkpoint: Path, *, seed: int = 0) -> Path:
    """An adapter on the attention's projections, saved as peft saves one; strong enough to change every answer."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in _targets(checkpoint).items():
        rows, columns = weight.shape
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) * 0.1
        tensors[f"{module}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * 0.1
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
    return folder


def merge(checkpoint: Path, adapter: Path) -> None:
    """Add the adapter to the weights of ``checkpoint``, in place: W + (alpha / rank) B A."""
    tensors, parts = load_file(checkpoint / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name in _targets(checkpoint):
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[name] += ALPHA / RANK * parts[f"{module}.lora_B.weight"] @ parts[f"{module}.lora_A.weight"]
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})


def _targets(checkpoint: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(checkpoint / "model.safetensors")
    return {name: weight for name, weight in tensors.items() if any(f".{target}." in name for target in TARGETS)}
