"""A checkpoint on its way into this process: weights, tokenizer, number format and device."""

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from longrope_vllm.errors import EvaluationError
from longrope_vllm.extras import require
from longrope_vllm.freed_memory import give_back_freed_memory


class LoadedModel:
    """A checkpoint, loaded when it is first asked: planning and resuming a finished evaluation need no weights."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        self.folder = folder
        self.dtype = dtype
        self.device = device

    @cached_property
    def module(self) -> Any:
        """The causal language model, in evaluation mode."""
        transformers = require("transformers", "eval")
        if self.device.type == "cpu":
            give_back_freed_memory()
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                self.folder, dtype=self.dtype, attn_implementation=self._attention
            )
        except (OSError, ValueError, ImportError) as error:  # the last from a flash-attn of another torch
            raise EvaluationError(
                f"Expected a causal language model in {self.folder}, found: {_first_line(error)}"
            ) from None
        model = model.eval().to(self.device)
        check_head(model)
        return model

    @property
    def _attention(self) -> str | None:
        """flash-attn where it is installed and can be used; what transformers takes by itself, SDPA, elsewhere."""
        usable = self.device.type == "cuda" and self.dtype != torch.float32 and find_spec("flash_attn") is not None
        return "flash_attention_2" if usable else None


def check_head(model: Any) -> None:
    """Raise ``EvaluationError`` unless logits are what the lm head makes of the last hidden state.

    Losses are taken that way, chunk by chunk; Granite, Cohere and Gemma 2 scale or cap their logits besides.
    """
    tokens = torch.arange(16, device=model.device)[None]
    with torch.inference_mode():
        expected = model(tokens, use_cache=False).logits.float()
        found = model.lm_head(model.base_model(tokens, use_cache=False).last_hidden_state).float()
    if not torch.allclose(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max())):
        raise EvaluationError(
            f"Expected a model whose logits come from its lm head as they are, found others in {type(model).__name__}: "
            "models that scale or cap their logits are not supported yet."
        )


def tokenizer_at(place: str) -> Any:
    """The tokenizer in the folder ``place``. Raises ``EvaluationError``."""
    transformers = require("transformers", "eval")
    try:
        return transformers.AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"Expected a tokenizer in {place}, found: {_first_line(error)}") from None


def dtype_named(name: str) -> torch.dtype:
    """Raises ``EvaluationError`` for another than bfloat16, float16 and float32."""
    if name not in ("bfloat16", "float16", "float32"):
        raise EvaluationError(f"Expected --dtype bfloat16, float16 or float32, found {name!r}.")
    found: torch.dtype = getattr(torch, name)
    return found


def device_named(name: str) -> torch.device:
    """``auto`` is CUDA where there is some. Raises ``EvaluationError`` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EvaluationError(f"Expected --device auto, cpu or cuda, found {name!r}.") from None
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise EvaluationError(f"Expected a CUDA device for --device {name}, found none: leave it out, or name another.")
    return device


def _first_line(error: Exception) -> str:
    """What transformers says of it; the rest is advice about its hub."""
    return next(iter(str(error).splitlines()), type(error).__name__)
