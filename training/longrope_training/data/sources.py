"""The documents of one source of text, in tokens, pass after pass, from any place on.

A document is a text between the tokens that begin and end a sequence, as far as the tokenizer has them (LongRoPE,
arXiv 2402.13753, section 4, puts its chunks between the same two). No chat template.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope_training.recipe import DataSource
from longrope_vllm.errors import TrainingError
from longrope_vllm.evaluation.encoder import Encoder
from longrope_vllm.evaluation.texts import Text, read_texts

_FIRST_BATCH, _LARGEST_BATCH = 1 << 14, 1 << 23
"""Characters that are tokenized at once, for the texts of a batch share the cores; batches grow with what was read."""

_TOKENIZER_FILES = (
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "special_*.json",
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far a source has been read."""

    turn: int = 0
    """Passes that are behind."""
    texts: int = 0
    """Texts of this pass that are behind, empty ones too."""
    pieces: int = 0
    """Documents of the next text that are behind."""
    documents: int = 0
    """Documents of all passes that are behind."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """A text in tokens, or a piece of one that is longer than any row."""

    number: int
    """Among the documents of its source, over all passes."""
    turn: int
    """The pass that it is from."""
    tokens: NDArray[np.uint32]
    """Shape [T], with T of 2 or more: fewer have nothing to predict."""
    whole: int
    """Tokens of the text that it is from."""
    after: Place
    """Where the next document is read from."""


class Tokens:
    """From text to the ids of a document."""

    def __init__(self, tokenizer: Any, *, vocabulary: int) -> None:
        """``vocabulary`` is what the model knows, ``vocab_size`` of its ``config.json``."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._front = Encoder(tokenizer).bos
        self._end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def __call__(self, texts: list[str], *, source: str) -> list[NDArray[np.uint32]]:
        """The documents of ``texts``; one without a token is an empty array.

        Raises ``TrainingError`` for a token that the model does not know.
        """
        found = self._tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        return [self._document(ids, source) for ids in found["input_ids"]]

    def _document(self, ids: list[int], source: str) -> NDArray[np.uint32]:
        tokens = np.array([*self._front, *ids, *self._end] if ids else [], dtype=np.uint32)
        highest = int(tokens.max(initial=0))
        if highest >= self._vocabulary:
            raise TrainingError(
                f"Expected tokens below the model's {self._vocabulary:,}, found token {highest:,} in {source}: put "
                "the tokenizer into the model's folder that belongs to it."
            )
        return tokens


def tokenizer_sha256(model: Path) -> str:
    """Of the names and bytes of all files in the folder ``model`` that may decide how text becomes tokens."""
    found = hashlib.sha256()
    for path in sorted({path for pattern in _TOKENIZER_FILES for path in model.glob(pattern) if path.is_file()}):
        found.update(f"{path.name}\n{path.stat().st_size}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def documents(spec: DataSource, tokens: Tokens, *, longest: int, characters: int, begin: Place) -> Iterator[Document]:
    """The documents of ``spec`` without end, from ``begin`` on; a source that ends is read again.

    A text of more than ``longest`` tokens is several documents, so that one book leaves room for other sources.
    ``characters`` is the least size of made-up texts. Raises ``TrainingError`` for a source without a document, for one
    that has fewer texts than were read of it before, and for tokens that the model does not know; ``EvaluationError``
    for what cannot be read.
    """
    place = begin
    while True:
        texts = _texts(spec, characters=characters)
        skipped = sum(1 for _ in islice(texts, place.texts))
        if skipped < place.texts:
            raise TrainingError(
                f"Expected {place.texts:,} texts or more in {spec.source}, as when it was first read, found "
                f"{skipped:,}: put the texts back, or remove what was prepared of them."
            )
        before = place
        for batch in _batches(texts):
            for ids in tokens([text.content for text in batch], source=spec.source):
                for document in _documents(ids, place, longest):
                    yield document
                    place = document.after
                place = replace(place, texts=place.texts + 1, pieces=0)
        if before.texts == before.pieces == 0 and place.documents == before.documents:
            raise TrainingError(
                f"Expected text to train on in {spec.source}, found none in {place.texts:,} texts: name another source."
            )
        place = Place(turn=place.turn + 1, documents=place.documents)


def _documents(ids: NDArray[np.uint32], place: Place, longest: int) -> Iterator[Document]:
    """The documents of a text of ``ids`` that ``place`` has not behind it."""
    begins = [begin for begin in range(0, len(ids), longest) if len(ids) - begin >= 2]
    ends = [*begins[1:], len(ids)]  # a single token at the end stays with those before it
    for begin, end in list(zip(begins, ends, strict=False))[place.pieces :]:
        tokens, number = ids[begin:end], place.documents
        place = replace(place, pieces=place.pieces + 1, documents=number + 1)
        yield Document(number=number, turn=place.turn, tokens=tokens, whole=len(ids), after=place)


def _texts(spec: DataSource, *, characters: int) -> Iterator[Text]:
    """As an evaluation reads them, but of a hub's dataset the split ``train`` unless one is named."""
    place, mark, field = spec.source.partition("#")
    if place.startswith("hub:") and place.count(":") == 1:
        place += ":train"  # else it would be ``test``, and the tuned model would be measured on what it has learned
    return read_texts(place + mark + field, characters=characters)


def _batches(texts: Iterator[Text]) -> Iterator[list[Text]]:
    batch: list[Text] = []
    size, enough = 0, _FIRST_BATCH
    for text in texts:
        batch.append(text)
        size += len(text.content) + 1
        if size >= enough:
            yield batch
            batch, size, enough = [], 0, min(2 * enough, _LARGEST_BATCH)
    if batch:
        yield batch
