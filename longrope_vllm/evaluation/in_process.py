"""A transformers model in this process, under one set of factors: the tier of a sequence is fixed while it is read."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.methods import Method
from longrope_vllm.evaluation.perplexity import token_losses
from longrope_vllm.evaluation.subject import Answered, Scored
from longrope_vllm.extras import require
from longrope_vllm.hf import fixed_rope

if TYPE_CHECKING:
    from longrope_vllm.evaluation.harness.models import Bounded


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
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype)
        except (OSError, ValueError) as error:
            raise EvaluationError(f"Expected a causal language model in {self.folder}, found: {error}") from None
        return model.eval().to(self.device)


class InProcess:
    """A ``Subject``: ``model`` under the factors of ``method``."""

    def __init__(self, model: LoadedModel, tokenizer: Any, method: Method) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._method = method

    @property
    def label(self) -> str:
        """That of the method."""
        return self._method.label

    def check(self, length: int) -> None:
        """Raise ``FactorsError`` for a length past the last tier."""
        self._method.factors.tier_for(length)

    def rope(self, length: int) -> Hashable:
        """Factors, attention factor and start tokens of the tier; its length says nothing about its angles."""
        tier = self._method.factors.tier_for(length)
        return id(self._model), tier.factors, tier.attention_factor, tier.start_tokens

    def score(self, tokens: Tensor, *, length: int) -> Scored:
        """One pass without a cache. Raises ``EvaluationError`` when memory runs out."""
        with fixed_rope(self._model.module, self._method.factors, length=length) as tier:
            losses = _in_memory(
                lambda: token_losses(self._model.module, tokens.to(self._model.device)), tokens=len(tokens)
            )
        return Scored(losses=losses, tier=tier.max_length)

    def answer(self, prompt: Sequence[int], *, max_tokens: int, length: int) -> Answered:
        """Greedy, whatever sampling the checkpoint recommends. Raises ``EvaluationError`` when memory runs out."""
        module: nn.Module = self._model.module
        with fixed_rope(module, self._method.factors, length=length) as tier:
            found = _in_memory(lambda: self._generate(list(prompt), max_tokens), tokens=length)
        text = self._tokenizer.decode(found[len(prompt) :], skip_special_tokens=True)
        return Answered(text=text, tier=tier.max_length)

    def harness_model(self) -> "Bounded":
        """Each request under the tier of its length."""
        from longrope_vllm.evaluation.harness.models import LiveModel

        module, factors = self._model.module, self._method.factors
        return LiveModel(
            module,
            self._tokenizer,
            limit=factors.max_length,
            rope_for=lambda length: fixed_rope(module, factors, length=length),
        )

    def close(self) -> None:
        """Nothing is held that the process does not give back."""

    def _generate(self, prompt: list[int], max_tokens: int) -> Tensor:
        transformers = require("transformers", "eval")
        module = self._model.module
        eos = module.generation_config.eos_token_id
        settings = transformers.GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=eos[0] if isinstance(eos, list) else eos,
        )
        tokens = torch.tensor([prompt], device=self._model.device)
        with torch.inference_mode():
            found: Tensor = module.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)
        return found[0].cpu()


def _in_memory(pass_over: Callable[[], Tensor], *, tokens: int) -> Tensor:
    try:
        return pass_over()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise EvaluationError(
            f"Expected memory for one pass over {tokens:,} tokens, found too little: evaluate shorter lengths, in "
            "--dtype bfloat16, on a larger device, or through a server."
        ) from None
