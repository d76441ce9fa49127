"""What is asked of every task alike, and which subjects would read a sequence under the same rope."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from longrope_vllm.evaluation.documents import Document
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.protocols import Protocol
from longrope_vllm.evaluation.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be measured, for whatever task."""

    subjects: Sequence[Subject]
    lengths: Sequence[int]
    """Tokens, ascending."""
    documents: Sequence[Document]
    encoder: Encoder
    depths: Sequence[float]
    trials: int
    seed: int
    protocol: Protocol = field(default_factory=lambda: Protocol.named("prefix"))


Rope = dict[int, list[Subject]]
"""Lengths that are read under one rope, ascending, each with the subjects that read it so."""


def by_rope(subjects: Sequence[Subject], lengths: Sequence[int]) -> list[Rope]:
    """Every length and subject, put together by rope; what ends at the shortest length comes first."""
    found: dict[Hashable, Rope] = {}
    for length in lengths:
        for subject in subjects:
            found.setdefault(subject.rope(length), {}).setdefault(length, []).append(subject)
    return sorted(found.values(), key=max)
