"""Documents: token sequences of one length, cut from texts, each with the hash of the text it was cut from.

Every length of an evaluation is measured on the beginnings of the same documents, so that lengths and methods can be
compared document by document.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.labels import split_label
from longrope_vllm.evaluation.texts import Text, default_group, read_texts

_CHARACTERS = 8
"""Characters of text that surely hold one token; more is tokenized only where that was not enough."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """A piece of a text, in tokens."""

    group: str
    """Kind of text."""
    index: int
    """Its number within the group."""
    source: str
    """The text it was cut from, and where the cut begins."""
    sha256: str
    """Of the whole text, as UTF-8."""
    tokens: Tensor
    """Token ids, int64, shape [T]; without a beginning-of-sequence token."""


def cut_documents(specs: Sequence[str], tokenizer: Any, *, length: int, count: int) -> list[Document]:
    """``count`` documents of ``length`` tokens for each of ``specs`` (``[GROUP=]SOURCE``).

    From every text its beginning; where there are fewer texts than ``count``, further pieces of the same ones, without
    overlap. Texts that are shorter are left out. Raises ``EvaluationError`` when too little is found.
    """
    documents: list[Document] = []
    for spec in specs:
        label, source = split_label(spec)
        group = label or default_group(source)
        if any(document.group == group for document in documents):
            raise EvaluationError(f"Expected groups of documents by different names, found {group} twice: name them.")
        documents += _group(group, source, tokenizer, length=length, count=count)
    return documents


def _group(group: str, source: str, tokenizer: Any, *, length: int, count: int) -> list[Document]:
    pieces: list[list[Document]] = []  # of each text that is long enough
    longest, read = 0, 0
    for text in read_texts(source, characters=_CHARACTERS * length):
        read += 1
        tokens = _tokens(text, tokenizer, at_least=length * count)
        longest = max(longest, len(tokens))
        if len(tokens) >= length:
            pieces.append(_pieces(text, tokens, group=group, length=length))
        if len(pieces) == count:
            break
    rounds = max((len(found) for found in pieces), default=0)
    chosen = [found[turn] for turn in range(rounds) for found in pieces if turn < len(found)][:count]
    if len(chosen) < count:
        raise EvaluationError(
            f"Expected {count} documents of {length:,} tokens in {source}, found {len(chosen)} (texts: {read}, the "
            f"longest of {longest:,} tokens): give longer text, fewer samples or shorter lengths."
        )
    return [
        Document(group=group, index=index, source=piece.source, sha256=piece.sha256, tokens=piece.tokens)
        for index, piece in enumerate(chosen)
    ]


def _tokens(text: Text, tokenizer: Any, *, at_least: int) -> Tensor:
    """Tokens of ``text``, or of enough of its beginning."""
    enough = text.content[: _CHARACTERS * at_least]
    found = tokenizer(enough, add_special_tokens=False, verbose=False)["input_ids"]
    if len(found) < at_least and len(enough) < len(text.content):
        found = tokenizer(text.content, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(found, dtype=torch.int64)


def _pieces(text: Text, tokens: Tensor, *, group: str, length: int) -> list[Document]:
    sha256 = hashlib.sha256(text.content.encode()).hexdigest()
    return [
        Document(
            group=group,
            index=0,
            source=f"{text.name}, from token {begin:,}",
            sha256=sha256,
            tokens=tokens[begin : begin + length],
        )
        for begin in range(0, len(tokens) - length + 1, length)
    ]
