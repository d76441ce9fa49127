"""Which processes can share a row, by the heads of a checkpoint, and what ``parallel`` ``auto`` stands for."""

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from longrope_training.recipe import Recipe
from longrope_vllm.errors import TrainingError
from longrope_vllm.evaluation.loading import device_named
from longrope_vllm.geometry import positive_int, read_config, text_config


def settled(recipe: Recipe, *, processes: int | None = None) -> Recipe:
    """``recipe`` with what ``parallel`` ``auto`` stands for in its place.

    ``processes`` of the run are those that a launcher says (``WORLD_SIZE``) unless named. Raises ``LongRopeError`` for
    a checkpoint that cannot be read.
    """
    processes = launched() if processes is None else processes
    ways = recipe.ways or processes or 1
    if recipe.parallel != "auto":
        return recipe
    if ways == 1 or device_named(recipe.device).type != "cuda" or find_spec("deepspeed") is None:
        return replace(recipe, parallel="single")
    heads, kv_heads = heads_of(text_config(read_config(recipe.model)))
    return replace(recipe, parallel="sp" if ways in shared_by(heads, kv_heads) else "single")


def check_shared(parallel: str, ways: int, *, heads: int, kv_heads: int) -> None:
    """Raise ``TrainingError`` unless ``ways`` processes can share a row.

    Ulysses gives each of them whole heads: as many queries each, and keys and values as many each or each of them to as
    many processes (the rule of DeepSpeed's ``UlyssesSPAttentionHF``). A ring takes any number.
    """
    if parallel != "sp":
        return
    if heads % ways:
        raise TrainingError(
            f"Expected attention heads that {ways} processes can share out, found {heads} in config.json: give --ways "
            f"{_ways_text(heads, kv_heads)}, or --parallel cp."
        )
    if kv_heads % ways and ways % kv_heads:
        raise TrainingError(
            f"Expected ways that divide the {kv_heads} heads of keys and values, or a multiple of them, found {ways}: "
            f"give --ways {_ways_text(heads, kv_heads)}, or --parallel cp."
        )


def shared_by(heads: int, kv_heads: int) -> tuple[int, ...]:
    """The numbers of processes above one that Ulysses can share these heads out to, ascending."""
    return tuple(
        ways for ways in range(2, heads + 1) if heads % ways == 0 and (kv_heads % ways == 0 or ways % kv_heads == 0)
    )


def heads_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Attention heads of queries, and of keys and values, as ``config.json`` states them."""
    heads = positive_int(config, "num_attention_heads")
    return heads, heads if config.get("num_key_value_heads") is None else positive_int(config, "num_key_value_heads")


def launched() -> int | None:
    """Processes of the run as its launcher says, or None."""
    found = os.environ.get("WORLD_SIZE", "")
    return int(found) if found.isdecimal() and int(found) else None


def _ways_text(heads: int, kv_heads: int) -> str:
    return " or ".join(map(str, shared_by(heads, kv_heads))) or "1"
