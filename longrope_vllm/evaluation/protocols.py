"""How a document becomes one perplexity: ours, and those behind published tables.

prefix        one pass over the first N tokens, every token counted once; a beginning of sequence where the tokenizer
              adds one
yarn          the same with a beginning of sequence wherever the tokenizer knows one: the ``--truncate`` runs of
              YaRN (arXiv 2309.00071), 10 documents of Proof-pile of 131,072 tokens or more
longrope      what LongRoPE's public evaluation (arXiv 2402.13753) does, which is the same as ``yarn``
sliding[:S]   a window of N tokens that moves by S (256) over the whole document and counts its new tokens: Press et
              al. (arXiv 2108.12409) and position interpolation (arXiv 2306.15595). Published scripts average windows
              instead of tokens, so that the first window, which counts N tokens, weighs like one of S: their figure is
              kept as ``window_loss``
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.perplexity import LAST, loss_by_position, mean_loss

_STRIDE = 256


@dataclass(frozen=True, kw_only=True)
class Window:
    """A part of a document that is read in one pass."""

    begin: int
    end: int
    counted: int
    """Tokens at its end that no earlier window counted."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One of the above."""

    name: str
    always_bos: bool = False
    stride: int | None = None
    """Tokens by which a window moves; None where one window begins each document."""

    @classmethod
    def named(cls, name: str) -> "Protocol":
        """Raises ``EvaluationError`` for an unknown name."""
        kind, _, stride = name.partition(":")
        if kind == "sliding" and (not stride or (stride.isdecimal() and int(stride) > 0)):
            return cls(name=name, always_bos=True, stride=int(stride or _STRIDE))
        if stride or kind not in ("prefix", "yarn", "longrope"):
            raise EvaluationError(
                f"Expected a protocol out of prefix, yarn, longrope, sliding and sliding:TOKENS, found {name!r}."
            )
        return cls(name=name, always_bos=kind != "prefix")

    def bos(self, encoder: Encoder) -> list[int]:
        """Ids in front of every window."""
        known = encoder.tokenizer.bos_token_id
        return [known] if self.always_bos and known is not None else encoder.bos


def windows(tokens: int, *, size: int, stride: int) -> Iterator[Window]:
    """Windows of ``size`` over a document of ``tokens``, until its end is counted."""
    counted = 0
    for begin in range(0, tokens, stride):
        end = min(begin + size, tokens)
        yield Window(begin=begin, end=end, counted=end - counted)
        counted = end
        if end == tokens:
            return


def sliding_losses(
    score: Callable[[Tensor], Tensor], document: Tensor, *, bos: list[int], size: int, stride: int
) -> list[Tensor]:
    """Losses that each window counts, a list of [counted]; the first token of the document counts only after a BOS.

    ``score`` gives the losses [T - 1] of one sequence [T]; a window with its BOS has ``size`` tokens.
    """
    found = []
    for window in windows(len(document), size=size - len(bos), stride=stride):
        sequence = torch.cat([torch.tensor(bos, dtype=document.dtype), document[window.begin : window.end]])
        losses = score(sequence)
        found.append(losses[-min(window.counted, len(losses)) :])
    return found


def prefix_values(losses: Tensor) -> tuple[dict[str, float], tuple[float, ...]]:
    """Figures and curve of one pass: ``losses`` [T - 1]."""
    last = losses[-LAST:]
    values = {
        "loss": mean_loss(losses),
        "tokens": float(len(losses)),
        "last_loss": mean_loss(last),
        "last_tokens": float(len(last)),
    }
    return values, loss_by_position(losses)


def sliding_values(found: list[Tensor]) -> dict[str, float]:
    """Figures of all windows of a document."""
    every = torch.cat(found)
    by_window = torch.tensor([mean_loss(losses) for losses in found], dtype=torch.float64)
    return {"loss": mean_loss(every), "tokens": float(len(every)), "window_loss": mean_loss(by_window)}
