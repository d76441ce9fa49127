"""A transformers model in this process, under one set of factors: the tier of a sequence is fixed while it is read."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from longrope_vllm.evaluation.greedy import end_tokens, greedy_tokens
from longrope_vllm.evaluation.loading import LoadedModel
from longrope_vllm.evaluation.memory import in_memory
from longrope_vllm.evaluation.methods import Method
from longrope_vllm.evaluation.perplexity import token_losses
from longrope_vllm.evaluation.subject import Answered, Scored
from longrope_vllm.hf import fixed_rope

if TYPE_CHECKING:
    from longrope_vllm.evaluation.harness.models import Bounded


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
            losses = in_memory(
                lambda: token_losses(self._model.module, tokens.to(self._model.device)), tokens=len(tokens)
            )
        return Scored(losses=losses, tier=tier.max_length)

    def answer(self, prompt: Sequence[int], *, max_tokens: int, length: int) -> Answered:
        """Greedy, whatever sampling the checkpoint recommends. Raises ``EvaluationError`` when memory runs out."""
        module = self._model.module
        end = end_tokens(module, self._tokenizer)
        with fixed_rope(module, self._method.factors, length=length) as tier:
            found = in_memory(lambda: greedy_tokens(module, prompt, max_tokens=max_tokens, end=end), tokens=length)
        return Answered(text=self._tokenizer.decode(found, skip_special_tokens=True), tier=tier.max_length)

    def harness_model(self) -> "Bounded":
        """Each request under the tier of its length. Weights are loaded with the first request."""
        from longrope_vllm.evaluation.harness.models import LiveModel

        model, factors = self._model, self._method.factors
        return LiveModel(
            lambda: model.module,
            self._tokenizer,
            limit=factors.max_length,
            rope_for=lambda length: fixed_rope(model.module, factors, length=length),
        )

    def close(self) -> None:
        """Nothing is held that the process does not give back."""
