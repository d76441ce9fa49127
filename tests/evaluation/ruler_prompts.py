"""Prompts of RULER over the topics of pydoc, measured by a count that needs no tokenizer."""

from pydoc_data.topics import topics
from typing import Any

from longrope_vllm.evaluation.prompt import Prompt
from longrope_vllm.evaluation.ruler import Sources, ruler_prompt

SOURCES = Sources(prose=" ".join(topics[name] for name in sorted(topics)))
LENGTHS = [1024, 4096, 32_768]


def quarters(text: str) -> int:
    """A count that costs nothing: four characters a token, as in English prose."""
    return -(-len(text) // 4)


def prompt(task: str, length: int, **kwargs: Any) -> Prompt:
    return ruler_prompt(
        task, **{"length": length, "sample": 0, "seed": 1, "count": quarters, "sources": SOURCES, **kwargs}
    )


def context(found: Prompt) -> str:
    """A prompt without the lines that frame it."""
    return found.text.partition("\n")[2].rpartition("\n")[0]
