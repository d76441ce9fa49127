"""RULER as lm-eval 0.4.13 writes it, offline and from a stream of chance that is known at every prompt.

The modules of lm-eval draw from ``random``, from a generator of their own and from numpy. Here all of them draw from
``random``, whose state is kept at the beginning of each prompt, so that ours can be written from the same state.
"""

import importlib
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any
from unittest.mock import patch

import wonderwords

from longrope_vllm.evaluation.ruler.vocabulary import Vocabulary


class FewerWords(wonderwords.RandomWord):
    """Every seventh word, and the adjectives with a hyphen: lm-eval writes out all pairs, which takes long for all."""

    def __init__(self) -> None:
        super().__init__()
        self._categories = {
            kind: [word for number, word in enumerate(words) if number % 7 == 0 or "-" in word]
            for kind, words in self._categories.items()
        }


@cache
def vocabulary() -> Vocabulary:
    """Ours of the same words."""
    words = FewerWords()._categories
    return Vocabulary.of(nouns=words["noun"], adjectives=words["adjective"], verbs=words["verb"])


def module(name: str) -> ModuleType:
    """A module of lm-eval's RULER that knows ``FewerWords``."""
    return _modules()[name]


@cache
def _modules() -> dict[str, ModuleType]:
    """Imported anew, whoever imported them before with all words, and put away again.

    The import neither downloads nor tries to: only rank 0 does.
    """
    names = ("common_utils", "prepare_niah", "niah_utils", "vt_utils", "cwe_utils", "fwe_utils", "qa_utils")
    package = "lm_eval.tasks.ruler"
    before = {found: sys.modules.pop(found) for found in list(sys.modules) if found.startswith(package)}
    with patch.dict("os.environ", LOCAL_RANK="1"), patch.object(wonderwords, "RandomWord", FewerWords):
        ours = {name: importlib.import_module(f"{package}.{name}") for name in names}
    for found in [found for found in sys.modules if found.startswith(package)]:
        del sys.modules[found]
    sys.modules.update(before)
    return ours


@dataclass(frozen=True, kw_only=True)
class Call:
    """One prompt that lm-eval drew: its arguments, its result, and the stream as it was before."""

    args: tuple[Any, ...]
    state: tuple[Any, ...]
    result: Any

    def rng(self) -> random.Random:
        """The stream from where lm-eval drew."""
        rng = random.Random()
        rng.setstate(self.state)
        return rng


@contextmanager
def recorded(where: ModuleType, name: str) -> Iterator[list[Call]]:
    """The calls of the function ``name`` while the context is open."""
    original = getattr(where, name)
    calls: list[Call] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        state = random.getstate()
        result = original(*args, **kwargs)
        calls.append(Call(args=args, state=state, result=result))
        return result

    with patch.object(where, name, record):
        yield calls


@contextmanager
def few_samples(where: ModuleType, name: str) -> Iterator[None]:
    """lm-eval writes 500 prompts by the function ``name``; four are enough while the context is open."""
    original = getattr(where, name)

    def write(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "num_samples": min(kwargs.get("num_samples", 500), 4)})

    with patch.object(where, name, write):
        yield


def accepted(calls: Sequence[Call], document: Mapping[str, Any]) -> Call:
    """The call that made ``document``: the last one with its answers; those before did not fit."""
    return next(call for call in reversed(calls) if list(call.result[1]) == document["outputs"])


def shown(document: Mapping[str, Any], *, delimiter: str = " ") -> str:
    """What lm-eval gives a model without a chat template (``build_qa_turn`` in its ``api/task.py``)."""
    return f"{document['input']}{delimiter}{document['gen_prefix']}"


@dataclass(frozen=True)
class Tokenized:
    input_ids: list[str]


def tokenizer(text: str) -> Tokenized:
    """Stands for a tokenizer: words, and single signs."""
    return Tokenized(text.replace(".", " .").replace("-", " - ").split())


def count(text: str) -> int:
    return len(tokenizer(text).input_ids)
