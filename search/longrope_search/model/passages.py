"""What a candidate is scored on: token sequences of the target length, each with the tokens whose loss counts.

perplexity   long documents; every token counts (LongRoPE, arXiv 2402.13753, section 3.2)
needle       the same documents with a number hidden at the beginning and asked for at the end; only the tokens of
             the answer count (LongRoPE2, arXiv 2502.20082, section 3.2)
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from longrope_vllm.errors import SearchError
from longrope_vllm.evaluation.documents import Document
from longrope_vllm.evaluation.encoder import Encoder

Objective = Literal["perplexity", "needle"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

_CITIES = ("Lisbon", "Nairobi", "Toronto", "Oslo", "Lima", "Kyoto", "Cairo", "Dublin", "Hanoi", "Quito")


@dataclass(frozen=True, kw_only=True, eq=False)
class Passage:
    """One sequence."""

    name: str
    """Where it comes from."""
    tokens: Tensor
    """Ids, int64, shape [T]."""
    counted: int
    """So many tokens at its end have a loss that counts; all but the first for perplexity."""

    @cached_property
    def sha256(self) -> str:
        """Of the ids and what counts."""
        return hashlib.sha256(self.tokens.numpy().tobytes() + str(self.counted).encode()).hexdigest()


def passages_of(
    objective: Objective, documents: Sequence[Document], encoder: Encoder, *, length: int, seed: int
) -> list[Passage]:
    """A passage of ``length`` tokens from each document, which are at least as long. Raises ``SearchError``."""
    if objective == "perplexity":
        return [_whole(document, encoder, length) for document in documents]
    return [_with_needle(document, encoder, length, random.Random(f"{seed}/{document.sha256}/{document.index}"))
            for document in documents]  # fmt: skip


def _whole(document: Document, encoder: Encoder, length: int) -> Passage:
    head = encoder.bos
    tokens = torch.cat([torch.tensor(head, dtype=torch.int64), document.tokens[: length - len(head)]])
    return Passage(name=document.source, tokens=tokens, counted=length - 1)


def _with_needle(document: Document, encoder: Encoder, length: int, draw: random.Random) -> Passage:
    city, number = draw.choice(_CITIES), str(draw.randint(1_000_000, 9_999_999))
    tokenizer = encoder.tokenizer
    fact = f"The special magic number of {city} is {number}."
    before = f"A special magic number is hidden in the text below. Memorize it.\n{fact}\n"
    question = f"\nWhat is the special magic number of {city} in the text above? The special magic number of {city} is"
    asked = _ids(tokenizer, question)
    answer = _ids(tokenizer, f"{question} {number}.")[len(asked) :]
    head = encoder.bos + _ids(tokenizer, before)
    room = length - len(head) - len(asked) - len(answer)
    if room < 1:
        raise SearchError(
            f"Expected a target with room for the needle and its question, found {length:,} tokens: search for a "
            "longer one."
        )
    parts = [torch.tensor(head), document.tokens[:room], torch.tensor(asked), torch.tensor(answer)]
    return Passage(name=f"a number in {document.source}", tokens=torch.cat(parts), counted=len(answer))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
