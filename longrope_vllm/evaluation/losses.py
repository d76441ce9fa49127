"""The tasks that take losses of documents, perplexity and LongPPL, as pieces of work.

One piece for each rope and document, which all methods and lengths under that rope share. Pieces come in order of
length, so that an interrupted evaluation has its short lengths complete.
"""

from collections.abc import Sequence
from time import monotonic

import torch
from torch import Tensor

from longrope_vllm.evaluation.asked import Asked, Rope, by_rope
from longrope_vllm.evaluation.documents import Document
from longrope_vllm.evaluation.longppl import CONTEXT, STEP, key_tokens
from longrope_vllm.evaluation.perplexity import mean_loss
from longrope_vllm.evaluation.protocols import prefix_values, sliding_losses, sliding_values
from longrope_vllm.evaluation.records import Key, Record
from longrope_vllm.evaluation.subject import Scored, Subject
from longrope_vllm.evaluation.work import Work


def perplexity_work(asked: Asked) -> list[Work]:
    """One pass for each rope and document."""
    bos = asked.protocol.bos(asked.encoder)
    ropes = by_rope(asked.subjects, asked.lengths)
    if asked.protocol.stride is None:
        return [_one_pass(rope, document, bos=bos) for rope in ropes for document in asked.documents]
    return [
        _sliding(sharing, length, document, bos=bos, stride=asked.protocol.stride)
        for rope in ropes
        for length, sharing in rope.items()
        for document in asked.documents
    ]


def _one_pass(rope: Rope, document: Document, *, bos: list[int]) -> Work:
    longest = max(rope)
    reader = rope[longest][0]

    def measure() -> list[Record]:
        started = monotonic()
        scored = reader.score(_sequence(document, longest, bos), length=longest)
        records = []
        for key in keys:
            values, curve = prefix_values(scored.losses[: key.length - 1])
            records.append(Record(key=key, values=values, curve=curve, tier=scored.tier, seconds=monotonic() - started))
        return records

    keys = tuple(
        _document_key("ppl", subject, length, document) for length, sharing in rope.items() for subject in sharing
    )
    return Work(title=_document_key("ppl", reader, longest, document).title, keys=keys, tokens=longest, measure=measure)


def _sliding(sharing: Sequence[Subject], length: int, document: Document, *, bos: list[int], stride: int) -> Work:
    def measure() -> list[Record]:
        started = monotonic()
        tiers: set[int | None] = set()

        def score(sequence: Tensor) -> Tensor:
            scored = sharing[0].score(sequence, length=length)
            tiers.add(scored.tier)
            return scored.losses

        values = sliding_values(sliding_losses(score, document.tokens, bos=bos, size=length, stride=stride))
        tier = tiers.pop() if len(tiers) == 1 else None  # a server may read the last window, a shorter one, elsewhere
        return [Record(key=key, values=values, tier=tier, seconds=monotonic() - started) for key in keys]

    keys = tuple(_document_key("ppl", subject, length, document) for subject in sharing)
    passes = (len(document.tokens) - length) // stride + 1
    return Work(title=keys[0].title, keys=keys, tokens=length, passes=passes, measure=measure)


def longppl_work(asked: Asked, *, evaluator: Subject, context: int = CONTEXT, step: int = STEP) -> list[Work]:
    """One piece for each rope, document and length; ``evaluator`` says which tokens count, the same for all."""
    chosen: dict[tuple[int, str], tuple[Scored, Tensor]] = {}  # by length and document: losses and key tokens

    def keys_of(document: Document, length: int) -> tuple[Scored, Tensor]:
        place = (length, f"{document.group} {document.index}")
        if place not in chosen:
            sequence = _sequence(document, length, asked.encoder.bos)
            scored = evaluator.score(sequence, length=length)
            chosen[place] = (
                scored,
                key_tokens(
                    lambda piece: evaluator.score(piece, length=len(piece)).losses,
                    sequence,
                    scored.losses,
                    context=context,
                    step=step,
                ),
            )
        return chosen[place]

    def piece(sharing: Sequence[Subject], document: Document, length: int) -> Work:
        def measure() -> list[Record]:
            started = monotonic()
            known, counted = keys_of(document, length)
            scored = known
            if evaluator not in sharing:
                scored = sharing[0].score(_sequence(document, length, asked.encoder.bos), length=length)
            tokens = int(counted.sum())
            values = {"loss": mean_loss(scored.losses[counted]) if tokens else 0.0, "tokens": float(tokens)}
            notes = {"evaluator": evaluator.label}
            seconds = monotonic() - started
            return [Record(key=key, values=values, tier=scored.tier, notes=notes, seconds=seconds) for key in keys]

        keys = tuple(_document_key("longppl", subject, length, document) for subject in sharing)
        # The first to be measured has the evaluator choose: one pass over all, and one over each piece of it.
        passes = 1.0 if evaluator not in sharing else 1 + (length - context) / step * (context + step) / length
        return Work(title=keys[0].title, keys=keys, tokens=length, passes=passes, measure=measure)

    return [
        piece(rope[length], document, length)
        for length in asked.lengths
        if length > context
        for rope in by_rope(asked.subjects, [length])
        for document in asked.documents
    ]


def _sequence(document: Document, length: int, bos: list[int]) -> Tensor:
    """The first ``length`` tokens that the model reads, a beginning of sequence included."""
    head = torch.tensor(bos, dtype=torch.int64)
    return torch.cat([head, document.tokens[: length - len(bos)]])


def _document_key(task: str, subject: Subject, length: int, document: Document) -> Key:
    return Key(task=task, method=subject.label, length=length, group=document.group, sample=str(document.index))
