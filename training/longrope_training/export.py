"""The tuned checkpoint as others take it: weights in the format they came in, a portable rope block with all tiers.

It is made from the last checkpoint of the run, so that it can be made again, in a folder of another name that gets its
own when it is complete. Everything beside the weights is that of the checkpoint that was tuned.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from longrope_training.model.adapters import merged
from longrope_training.room import room_for
from longrope_vllm.atomic import write_atomically
from longrope_vllm.extras import require
from longrope_vllm.factors import Factors
from longrope_vllm.rope_block import config_before, write_rope

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")
_CARD = "README.md"


def export(
    checkpoint: Path, base: Path, factors: Factors, *, adapters: bool, folder: Path, card: str, picture: bytes
) -> None:
    """Write the tuned model of ``checkpoint``, a checkpoint of a run on ``base``, to ``folder``.

    Adapters are merged into the weights. Raises ``TrainingError`` when the disk is full; an earlier ``folder`` then
    stays.
    """
    unset_hf_deepspeed_config()  # left by training, it would share the weights out again while they are loaded
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model = _with_adapters(checkpoint, base) if adapters else _whole(checkpoint, base)
    with room_for("the tuned checkpoint", unfinished):
        model.save_pretrained(unfinished)
        for path in unfinished.iterdir():
            path.chmod(0o644)  # safetensors lets its writer alone read, and servers run as users of their own
        for path in base.iterdir():
            if path.is_file() and not path.name.endswith(_WEIGHTS) and path.name != _CARD:
                shutil.copyfile(path, unfinished / path.name)
        write_rope(unfinished, factors)
        write_atomically(unfinished / _CARD, card)
        write_atomically(unfinished / "loss.png", picture)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def keep_adapters(checkpoint: Path, folder: Path) -> None:
    """Copy the adapters of ``checkpoint`` to ``folder``, as peft reads them. Raises ``TrainingError``."""
    with room_for("the adapters", folder):
        folder.mkdir(exist_ok=True)
        for path in checkpoint.glob("adapter_*"):
            shutil.copyfile(path, folder / path.name)


def _whole(checkpoint: Path, base: Path) -> Any:
    transformers = require("transformers", "train")
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=_dtype(base))


def _with_adapters(checkpoint: Path, base: Path) -> Any:
    transformers, peft = require("transformers", "train"), require("peft", "train")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return merged(peft.PeftModel.from_pretrained(model, checkpoint)).to(_dtype(base))


def _dtype(base: Path) -> torch.dtype:
    """Number format of the weights of ``base``, as its config states it."""
    config = config_before(base)
    stated = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    found = getattr(torch, stated.removeprefix("torch."), torch.bfloat16)
    assert isinstance(found, torch.dtype)
    return found
