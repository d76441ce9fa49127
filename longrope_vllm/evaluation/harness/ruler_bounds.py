"""What lm-eval's RULER tasks are made for, how many documents, and where their making would not end.

lm-eval 0.4.13 makes 500 documents for each length, and searches for a document that fits in loops that never end when
none does: for ``ruler_vt`` and ``ruler_cwe`` that is found out here by measuring the smallest one first.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from longrope_vllm.errors import EvaluationError
from longrope_vllm.extras import require

SHORTEST = 1024
"""Tokens; below, the questions of RULER leave no room for a text."""
SHORTEST_OF = {"ruler_vt": 2048}
"""Variable tracking has an example in front, so that with many tokenizers nothing fits into 1024."""
_MAKERS = ("generate_samples", "sys_word_pair_random", "sys_vartrack_w_noise_random", "sys_kwext")
"""The function of each RULER module that makes documents one after the other."""


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """What the documents of RULER are made for."""

    length: int
    """Tokens of a document with its question and the room for the answer."""
    samples: int
    """Documents; any number begins with the same ones. lm-eval makes no more than 500."""
    tokenizer: Path

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= 500:
            raise EvaluationError(f"Expected 1 to 500 samples of a RULER task, found {self.samples}.")
        if not self.tokenizer.is_dir():
            raise EvaluationError(f"Expected a folder with a tokenizer for RULER, found none at {self.tokenizer}.")

    @property
    def metadata(self) -> dict[str, Any]:
        """As lm-eval hands it to the functions that make documents."""
        return {"tokenizer": str(self.tokenizer), "max_seq_lengths": [self.length]}


@contextmanager
def bounded(name: str, task_file: Path, ruler: Ruler) -> Iterator[None]:
    """Within the block the RULER task ``name`` makes ``ruler.samples`` documents instead of 500.

    Raises ``EvaluationError`` for a length at which it would make none.
    """
    shortest = SHORTEST_OF.get(name, SHORTEST)
    if ruler.length < shortest:
        raise EvaluationError(
            f"Expected at least {shortest} tokens for {name}, found {ruler.length}: its documents do not fit below, "
            "and lm-eval would look for one without end."
        )
    globals_ = _fresh_module(task_file)
    (maker,) = [found for found in _MAKERS if found in globals_]
    tokenizer = globals_["get_tokenizer"](str(ruler.tokenizer))
    _check_ends(name, maker, globals_, length=ruler.length, count=lambda text: len(tokenizer(text).input_ids))
    original = globals_[maker]

    def fewer(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "num_samples": min(kwargs.get("num_samples", 500), ruler.samples)})

    globals_[maker] = fewer
    try:
        yield
    finally:
        globals_[maker] = original


def _fresh_module(task_file: Path) -> dict[str, Any]:
    """Names of the module that makes the documents, as in a new process: one keeps a random state of its own."""
    load = partial(require("lm_eval.tasks._yaml_loader", "eval").load_yaml, task_file)
    sys.modules.pop(load()["custom_dataset"].__module__, None)
    made: dict[str, Any] = load()["custom_dataset"].__globals__
    return made


def _check_ends(name: str, maker: str, module: dict[str, Any], *, length: int, count: Callable[[str], int]) -> None:
    """Raise ``EvaluationError`` unless the smallest document of a maker that searches without end fits."""
    if maker == "sys_vartrack_w_noise_random":
        # Its example is held to 500 tokens with 30 for an answer, 5 noises at least; a document has 10 at least.
        example, answer = module["generate_input_output"](5, 1, 4, is_icl=True)
        _check_fits(name, tokens=count(example) + 30, limit=500, what="its example")
        least = count(f"{example} {' '.join(answer)}\n\n") + count(module["generate_input_output"](10, 1, 4)[0]) + 30
    elif maker == "sys_word_pair_random":
        least = count(module["generate_input_output"](10, length)[1]) + 120
    else:
        return
    _check_fits(name, tokens=least + 20, limit=length, what="its smallest document")  # 20: names differ in tokens


def _check_fits(name: str, *, tokens: int, limit: int, what: str) -> None:
    if tokens > limit:
        raise EvaluationError(
            f"Expected {what} of {name} within {limit} tokens, found {tokens} with this tokenizer: ask for a longer "
            "length or leave it out; lm-eval would look for one without end."
        )
