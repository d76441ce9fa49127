"""The oracle of every served answer: one forward pass of transformers at fixed length, the rope of one tier in it.

In: the checkpoint before ``write_rope`` and the factors. A token sampled from a context of n tokens belongs to the tier
of n (of the length to start by, where that is longer), so a request needs one pass for each tier it was in, over its
prompt and what the server answered (forced, not sampled again). Nothing here knows of chunks, caches, batches or
preemption.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from longrope_vllm import Factors, Tier
from longrope_vllm.hf import fixed_rope

TOLERANCE = 3e-4
"""Log-probabilities in float32: two implementations of the model, two tables rounded apart."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the oracle says about one answer."""

    request: str
    tiers: tuple[int, ...]
    """Lengths of the tiers it was in, in order."""
    difference: float
    """Largest difference of a log-probability that the server stated."""
    shortfall: float
    """How much less likely than the best token a sampled one was, at most (a tie broken otherwise is near 0)."""

    @property
    def is_right(self) -> bool:
        return self.difference < TOLERANCE and self.shortfall < 2 * TOLERANCE


class OnePass:
    """One checkpoint with its factors."""

    def __init__(self, model: nn.Module, factors: Factors) -> None:
        self.model = model
        self.factors = factors

    @classmethod
    def from_checkpoint(cls, base: Path, factors: Factors) -> Self:
        """``base`` has a plain rope: nothing of what the server reads about tiers is read here."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        return cls(model.eval(), factors)

    def tiers(self, lengths: range, start: int) -> list[tuple[Tier, range]]:
        """The tiers of a request that starts by ``start``, each with those of its context ``lengths`` within."""
        ends = sorted({self.factors.tier_for(max(length, start)).max_length for length in lengths})
        return [
            (tier, range(max(lengths.start, shorter + 1), min(lengths.stop, tier.max_length + 1)))
            for shorter, tier in zip([0, *ends], map(self.factors.tier_for, ends), strict=False)
        ]

    @torch.no_grad()
    def log_probabilities(self, tokens: list[int], lengths: range, *, start: int = 0) -> Tensor:
        """Of the tokens after the first n of ``tokens``, for each n in ``lengths``: shape [lengths, vocabulary]."""
        parts = []
        for tier, within in self.tiers(lengths, start):
            with fixed_rope(self.model, self.factors, length=tier.max_length):
                logits = self.model(torch.tensor([tokens[: within[-1]]])).logits[0, within[0] - 1 :]
            parts.append(logits.double().log_softmax(dim=-1))  # [within, vocabulary]
        return torch.cat(parts)

    @torch.no_grad()
    def prompt_log_probabilities(self, prompt: list[int]) -> Tensor:
        """Of the tokens of ``prompt`` after the first, in the tier of its length: shape [tokens - 1, vocabulary]."""
        with fixed_rope(self.model, self.factors, length=len(prompt)):
            return self.model(torch.tensor([prompt])).logits[0, :-1].double().log_softmax(dim=-1)

    def verdict(self, request: dict[str, Any], answer: dict[str, Any]) -> Verdict:
        """``answer`` of an engine job to ``request``: every log-probability it states, every token it sampled."""
        tokens = request["prompt"] + answer["tokens"]
        lengths = range(len(request["prompt"]), len(tokens))
        expected = self.log_probabilities(tokens, lengths, start=request["start"])
        assert len(answer["tokens"]) == len(answer["top"]) == expected.shape[0]
        difference = max(
            abs(stated - float(row[int(token)]))
            for row, top in zip(expected, answer["top"], strict=True)
            for token, stated in top.items()
        )
        sampled = expected.gather(1, torch.tensor(answer["tokens"])[:, None])  # [outputs, 1]
        return Verdict(
            request=request["id"],
            tiers=tuple(tier.max_length for tier, _ in self.tiers(lengths, request["start"])),
            difference=difference,
            shortfall=float((expected.amax(dim=1) - sampled[:, 0]).max()),
        )

    def verdicts(self, requests: Iterable[dict[str, Any]], answers: dict[str, dict[str, Any]]) -> list[Verdict]:
        """One for each request that was answered."""
        with one_thread():
            return [self.verdict(request, answers[request["id"]]) for request in requests if request["id"] in answers]


@contextmanager
def one_thread() -> Iterator[None]:
    """Models this small gain nothing from a second thread and lose much when others want the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
