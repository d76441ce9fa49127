"""Recipes on made-up text, with a tokenizer of one token a character: what a stream must hold can be counted out."""

import json
import random
from pathlib import Path
from typing import Any

from longrope_training.data.prepare import Told, prepare
from longrope_training.data.schedule import Schedule
from longrope_training.data.streams import Stream, Streams
from longrope_training.recipe import DataSource, Recipe, Stage
from tiny_models import VOCABULARY

WINDOW = 32
BOS, EOS = 1, 2


def checkpoint(folder: Path, *, vocabulary: int = VOCABULARY) -> Path:
    """What preparing reads of a checkpoint: a config, and a tokenizer that begins and ends sequences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel({chr(code): code for code in range(VOCABULARY)}, unk_token=chr(0)))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{chr(BOS)} $A", special_tokens=[(chr(BOS), BOS)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": chr(BOS), "eos_token": chr(EOS)}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "config.json").write_text(json.dumps({"vocab_size": vocabulary}))
    return folder


def recipe(root: Path, *sources: DataSource, out: str = "out", **other: Any) -> Recipe:
    """A recipe on a checkpoint in ``root``; two steps of four rows of 64 tokens unless told otherwise."""
    model = root / "model"
    if not model.exists():
        checkpoint(model)
    factors = root / "factors.json"
    factors.touch()
    asked = {"stages": (Stage(length=64, steps=2),), "batch": 4, "factors": factors, **other}
    return Recipe(model=model, out=root / out, data=sources, **asked)


def mixed(root: Path, *, out: str = "out", **other: object) -> Recipe:
    """Two sources with several passes, upsampling, and both kinds of rows."""
    sources = (
        DataSource(source=jsonl(root / "a.jsonl", [*words("a", 40), "", *words("A", 30)]), weight=2),
        DataSource(source=jsonl(root / "b.jsonl", words("b", 50)), upsample=3, upsample_from=30),
    )
    return recipe(root, *sources, out=out, **{"stages": (Stage(length=128, steps=16),), "short_share": 0.3, **other})


class Characters:
    """Does what the tokenizer of ``checkpoint`` does to text, without the seconds that transformers takes to come."""

    bos_token_id: int | None = BOS
    eos_token_id: int | None = EOS

    def __call__(self, text: str | list[str], *, add_special_tokens: bool = True, **_: object) -> dict[str, Any]:
        if isinstance(text, list):
            return {"input_ids": [[ord(letter) for letter in one] for one in text]}
        begin = [self.bos_token_id] if add_special_tokens and self.bos_token_id is not None else []
        return {"input_ids": begin + [ord(letter) for letter in text]}


def prepared(
    made: Recipe, *, told: Told = lambda done, wanted: None, save_every: float = 5.0, tokenizer: Any = None
) -> Streams:
    """The data of a recipe."""
    schedule = Schedule.of(made, window=WINDOW)
    return prepare(made, schedule, tokenizer or Characters(), told=told, save_every=save_every)


def jsonl(path: Path, texts: list[str]) -> str:
    """A source of ``texts``, one a line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def words(letter: str, count: int, *, shortest: int = 5, longest: int = 60, seed: int = 0) -> list[str]:
    """Texts of one letter, of differing lengths."""
    draw = random.Random(f"{seed}/{letter}")
    return [letter * draw.randint(shortest, longest) for _ in range(count)]


def documents_in(stream: Stream) -> list[list[int]]:
    """The tokens of each document."""
    ends = [*stream.starts[1:], len(stream.tokens)]
    return [stream.tokens[start:end].tolist() for start, end in zip(stream.starts, ends, strict=True)]


def tokens_of(text: str) -> list[int]:
    """The document that a text becomes."""
    return [BOS, *(ord(letter) for letter in text), EOS]


def files_in(folder: Path) -> dict[str, bytes]:
    """All that a folder holds."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
