"""From a recipe to its two streams on disk: read, mix, write, and go on where a killed process was.

``progress.json`` says how far the files are good; it is written after their bytes are on disk. Whoever goes on cuts
the files back to it and reads the sources from there, so an interrupted preparation ends with the same bytes.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from longrope_training.data.mixture import Mixture
from longrope_training.data.schedule import Kind, Schedule
from longrope_training.data.sources import Document, Place, Tokens, documents, tokenizer_sha256
from longrope_training.data.streams import (
    COMPLETE,
    KINDS,
    MadeFrom,
    Sizes,
    Streams,
    check_made_from,
    open_stream,
    portions,
    read_state,
)
from longrope_training.data.writer import Writer
from longrope_training.recipe import DataSource, Recipe
from longrope_vllm.atomic import remove_unfinished, write_atomically
from longrope_vllm.errors import TrainingError
from longrope_vllm.geometry import positive_int, read_config, text_config

Told = Callable[[int, int], None]
"""Is called with the tokens so far and the tokens wanted."""

_PROGRESS = "progress.json"
_CHARACTERS = 8
"""Characters of a made-up text for each token of the longest row; few tokens have more."""


def prepare(recipe: Recipe, schedule: Schedule, tokenizer: Any, *, told: Told, save_every: float = 5.0) -> Streams:
    """The data of ``recipe`` in ``out/data``: what is there already, and what is left to do of it.

    ``tokenizer`` is that of the checkpoint; ``save_every`` are the seconds of work that a kill may cost. One process at
    a time. Raises ``TrainingError`` for data of another recipe, sources without text, tokens that the model does not
    know or a full disk, ``EvaluationError`` for text that cannot be read, ``CheckpointError`` for a model without a
    vocabulary.
    """
    folder = recipe.out / "data"
    wanted = made_from(recipe, schedule)
    complete = read_state(folder / COMPLETE)
    if complete is None:
        with ExitStack() as files:
            preparation = _Preparation(recipe, schedule, tokenizer, made_from=wanted, files=files)
            preparation.run(told, save_every)
            preparation.finish()
    else:
        check_made_from(folder, complete["made_from"], wanted)
    return Streams.at(folder)


def made_from(recipe: Recipe, schedule: Schedule) -> MadeFrom:
    """All that decides the data; of the text itself its name only, for what is streamed has no hash beforehand."""
    return {
        "format": 2,
        "sources": [asdict(source) for source in recipe.data],
        "seed": recipe.seed,
        "tokens of long rows": schedule.tokens("long"),
        "tokens of short rows": schedule.tokens("short"),
        "length of rows": max(stage.length for stage in schedule.stages),
        "trained window": schedule.window,
        "tokenizer": tokenizer_sha256(recipe.model),
    }


class _Preparation:
    """Files that grow, and how far each source was read."""

    def __init__(
        self, recipe: Recipe, schedule: Schedule, tokenizer: Any, *, made_from: MadeFrom, files: ExitStack
    ) -> None:
        self._recipe, self._folder, self._made_from = recipe, recipe.out / "data", made_from
        begun = read_state(self._folder / _PROGRESS)
        if begun is not None:
            check_made_from(self._folder, begun["made_from"], made_from)
        self._mixture = Mixture(recipe.data, schedule, seed=recipe.seed, taken=begun["taken"] if begun else None)
        self._places = [Place(**place) for place in begun["places"]] if begun else [Place() for _ in recipe.data]
        tokens = Tokens(tokenizer, vocabulary=positive_int(text_config(read_config(recipe.model)), "vocab_size"))
        longest = max(stage.length for stage in schedule.stages)
        read = list(zip(recipe.data, self._places, strict=True))
        self._readers = [
            documents(spec, tokens, longest=longest, characters=_CHARACTERS * longest, begin=place)
            for spec, place in read
        ]
        self._passes = [_Passes(spec, place) for spec, place in read]
        pieces = {"long": None, "short": schedule.window}
        with _disk(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writers = {
                kind: Writer(
                    self._folder,
                    kind,
                    sizes=Sizes(**begun["sizes"][kind]) if begun else Sizes(),
                    piece=pieces[kind],
                    files=files,
                )
                for kind in KINDS
            }

    def run(self, told: Told, save_every: float) -> None:
        """Read and write until both streams are full."""
        wanted = sum(self._mixture.wanted.values())
        saved = monotonic()
        while (kind := self._mixture.emptiest()) is not None:
            self._take(kind)
            if monotonic() - saved >= save_every:
                self._save()
                saved = monotonic()
            told(wanted - sum(self._mixture.room(kind) for kind in KINDS), wanted)
        self._save()

    def finish(self) -> None:
        """Write what came out, which makes the data complete."""
        streams = {kind: open_stream(self._folder, kind, writer.sizes) for kind, writer in self._writers.items()}
        state = {
            "made_from": self._made_from,
            "sizes": self._sizes(),
            "portions": [asdict(portion) for portion in portions(streams, self._recipe.data)],
        }
        with _disk(self._folder):
            write_atomically(self._folder / COMPLETE, json.dumps(state, indent=1))
            (self._folder / _PROGRESS).unlink()
            for name in (_PROGRESS, COMPLETE):
                remove_unfinished(self._folder / name)

    def _take(self, kind: Kind) -> None:
        source = self._mixture.source_for(kind)
        document = next(self._readers[source])
        into = self._mixture.destination(document, source=source, kind=kind)
        self._passes[source].saw(document, taken=into is not None)
        if into is not None:
            with _disk(self._folder):
                written = self._writers[into].add(document, source=source, room=self._mixture.room(into))
            self._mixture.taken[into][source] += written
        self._places[source] = document.after

    def _save(self) -> None:
        state = {
            "made_from": self._made_from,
            "sizes": self._sizes(),
            "taken": self._mixture.taken,
            "places": [asdict(place) for place in self._places],
        }
        with _disk(self._folder):
            for writer in self._writers.values():
                writer.sync()
            write_atomically(self._folder / _PROGRESS, json.dumps(state, indent=1))

    def _sizes(self) -> dict[Kind, dict[str, int]]:
        return {kind: asdict(writer.sizes) for kind, writer in self._writers.items()}


class _Passes:
    """Notices a source that would be read for ever, because nothing is taken of it."""

    def __init__(self, spec: DataSource, place: Place) -> None:
        self._spec, self._turn = spec, place.turn
        self._fruitful = place.texts > 0 or place.pieces > 0  # of a pass that began before, nothing is known

    def saw(self, document: Document, *, taken: bool) -> None:
        """Raise ``TrainingError`` when a whole pass had no long document and nothing was taken of it."""
        if document.turn > self._turn:
            if not self._fruitful:
                raise TrainingError(
                    f"Expected documents of {self._spec.upsample_from:,} tokens or more in {self._spec.source}, found "
                    "none in a whole pass: lower its upsample_from, or leave its upsample out."
                )
            self._turn, self._fruitful = document.turn, False
        self._fruitful |= taken or document.whole >= self._spec.upsample_from


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Say of a write that failed what is left of the work."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"Expected room for prepared text in {folder}, found: {error.strerror}. What was prepared is kept: make "
            "room and start again."
        ) from None
