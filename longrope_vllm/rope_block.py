"""The rope block of a checkpoint: read it as ``Factors``, write a portable one, undo it.

Two tiers are what every engine knows, ``short_factor`` and ``long_factor``. What they cannot say (more tiers, start
tokens, a scaled rope underneath) stands beside them under a key of our own, ``TIERS_KEY``, in the form of
``factors.json``; the block then holds the shortest and the longest tier, for engines that do not read the key.

Engines read different fields of the same block: transformers takes ``factor`` and ``attention_factor``, vLLM
``short_mscale`` and ``long_mscale``; vLLM's safe default length looks for ``original_max_position_embeddings`` at the
top level only, transformers 5 prefers it there. A portable block states all of them, consistently.
"""

import json
from pathlib import Path
from typing import Any

from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import CheckpointError, FactorsError
from longrope_vllm.factors import Factors, Origin, Tier, own_tier
from longrope_vllm.factors_file import document_from_factors, factors_from_document
from longrope_vllm.geometry import (
    ROPE_BLOCKS,
    Config,
    Geometry,
    read_config,
    rope_parameters,
    rope_type,
    text_config,
)
from longrope_vllm.rope.own import longrope_rope

BACKUP_NAME = "config.json.before-longrope"

TIERS_KEY = "longrope_tiers"
"""Top-level key of a text config (engines hash the rope block, so no object can be nested in it)."""


def read_rope_block(config: Config) -> Factors | None:
    """The tiers of a longrope checkpoint, or None when its rope is of another type.

    Magnitudes: ``short_mscale`` / ``long_mscale`` where stated, else ``attention_factor``, else
    ``sqrt(1 + ln s / ln L)`` for both tiers, as the engines do. Raises ``CheckpointError`` or ``FactorsError``.
    """
    text = text_config(config)
    if rope_type(rope_parameters(text)) != "longrope":
        return None
    geometry = Geometry.from_config(config)
    if text.get(TIERS_KEY) is not None:
        return _read_tiers(text[TIERS_KEY], geometry)
    baselines = {geometry.trained_window: longrope_rope(geometry, "short")}
    if geometry.max_positions > geometry.trained_window:
        baselines[geometry.max_positions] = longrope_rope(geometry, "long")
    return Factors(
        rotary_dim=geometry.rotary_dim,
        base=geometry.base,
        trained_window=geometry.trained_window,
        tiers=tuple(
            Tier(max_length=length, factors=tuple(rope.factors.tolist()), attention_factor=rope.attention_factor)
            for length, rope in baselines.items()
        ),
        origin=Origin(method="checkpoint"),
    )


def _read_tiers(document: Any, geometry: Geometry) -> Factors:
    """The tiers under ``TIERS_KEY``. Raises ``CheckpointError`` when the block beside them says something else."""
    try:
        factors = factors_from_document(document)
    except FactorsError as error:
        raise CheckpointError(f"{error} (under {TIERS_KEY} in config.json)") from None
    first, last = factors.tiers[0], factors.tiers[-1]
    short, long = longrope_rope(geometry, "short"), longrope_rope(geometry, "long")
    stated = {
        "rotary dimensions": (geometry.rotary_dim, factors.rotary_dim),
        "rope_theta": (geometry.base, factors.base),
        "original_max_position_embeddings": (geometry.trained_window, first.max_length),
        "max_position_embeddings": (geometry.max_positions, last.max_length),
        "short_factor": (tuple(short.factors.tolist()), first.factors),
        "long_factor": (tuple(long.factors.tolist()), last.factors),
        "short_mscale": (short.attention_factor, first.attention_factor),
        "long_mscale": (long.attention_factor, last.attention_factor),
    }
    for field, (block, ours) in stated.items():
        if block != ours:
            raise CheckpointError(
                f"Expected {field} of the rope block to agree with {TIERS_KEY} in config.json, found {block} and "
                f"{ours}: apply the factors again instead of editing one of them."
            )
    return factors


def check_fits(config: Config, factors: Factors) -> Tier:
    """The checkpoint's own tier. Raises ``FactorsError`` unless ``factors`` were made for its rope."""
    text = text_config(config)
    geometry = Geometry.from_config(text)
    if text.get(TIERS_KEY) is None:
        factors.check_fits(geometry)
        return own_tier(geometry)
    applied = _read_tiers(text[TIERS_KEY], geometry)
    factors.check_fits(applied.geometry)
    return applied.tiers[0]


def portable_fields(config: Config, factors: Factors) -> dict[str, Any]:
    """The fields of a text config that make it a longrope checkpoint, in the spelling it already uses.

    A mapping that has neither spelling (a config of transformers 4 with a plain rope) gets ``rope_scaling``.

    Raises ``FactorsError`` when the factors belong to another rope or reach no further than the checkpoint's own.
    """
    text = text_config(config)
    geometry = Geometry.from_config(text)
    own = check_fits(text, factors)
    factors = factors.with_own_tier(own)
    if len(factors.tiers) < 2:
        raise FactorsError(
            f"Expected a tier above the {own.max_length} tokens of the checkpoint's own rope, found one up to "
            f"{factors.max_length} only: there is nothing to stretch."
        )
    short, long = factors.tiers[0], factors.tiers[-1]
    spellings = [name for name in ROPE_BLOCKS if text.get(name)] or [
        "rope_parameters" if "rope_parameters" in text else "rope_scaling"
    ]
    block = {
        "rope_type": "longrope",
        "type": "longrope",
        "rope_theta": geometry.base,
        "factor": long.max_length / short.max_length,
        "original_max_position_embeddings": short.max_length,
        "attention_factor": long.attention_factor,
        "short_mscale": short.attention_factor,
        "long_mscale": long.attention_factor,
        "short_factor": list(short.factors),
        "long_factor": list(long.factors),
    }
    partial = rope_parameters(text).get("partial_rotary_factor")
    if partial is not None:
        block["partial_rotary_factor"] = partial
    fields: dict[str, Any] = {
        **dict.fromkeys(spellings, block),
        "max_position_embeddings": long.max_length,
        "original_max_position_embeddings": short.max_length,
    }
    if not _fits_block(factors):
        fields[TIERS_KEY] = document_from_factors(factors)
    elif TIERS_KEY in text:
        fields[TIERS_KEY] = None  # laid over the config, it takes the tiers of an earlier apply back
    return fields


def _fits_block(factors: Factors) -> bool:
    """True when ``short_factor`` and ``long_factor`` say all there is."""
    return (
        len(factors.tiers) == 2
        and factors.rope_type == "default"
        and factors.tiers[0].max_length == factors.trained_window
        and not any(tier.start_tokens for tier in factors.tiers)
    )


def write_rope(checkpoint: str | Path, factors: Factors) -> Path:
    """Make ``checkpoint`` a longrope checkpoint; its first ``config.json`` is kept as ``BACKUP_NAME``.

    Atomic: a reader sees the old file or the new one. Applying again starts from the kept original. Returns the path
    written. Raises ``CheckpointError`` or ``FactorsError`` before anything is written, also when something else than
    the rope was edited since the first time; on any failure the folder is left as it was.
    """
    folder = Path(checkpoint)
    path, backup = folder / "config.json", folder / BACKUP_NAME
    now = read_config(folder)
    if backup.exists():
        before = read_config(folder, BACKUP_NAME)
        _check_only_rope_differs(folder, now, before)
        write_atomically(path, _applied(before, factors))
        return path
    content = _applied(now, factors)
    write_atomically(backup, path.read_bytes())
    try:
        write_atomically(path, content)
    except BaseException:
        backup.unlink()
        raise
    return path


def config_before(checkpoint: str | Path) -> dict[str, Any]:
    """The config as it was before ``write_rope``, which is the one it starts from."""
    applied = (Path(checkpoint) / BACKUP_NAME).exists()
    return read_config(checkpoint, BACKUP_NAME if applied else "config.json")


def undo_rope(checkpoint: str | Path) -> Path:
    """Put the ``config.json`` from before ``write_rope`` back, byte for byte. Returns its path.

    Raises ``CheckpointError`` when there is nothing to undo, or the file was edited elsewhere in between.
    """
    folder = Path(checkpoint)
    path, backup = folder / "config.json", folder / BACKUP_NAME
    if not backup.exists():
        raise CheckpointError(f"Expected {BACKUP_NAME} in {folder}, found none: nothing was applied here.")
    _check_only_rope_differs(folder, read_config(folder), read_config(folder, BACKUP_NAME))
    backup.replace(path)
    return path


def _applied(config: dict[str, Any], factors: Factors) -> str:
    fields = portable_fields(config, factors)
    nested = isinstance(config.get("text_config"), dict)
    text = {**(config["text_config"] if nested else config), **fields}
    if text.get(TIERS_KEY) is None:
        text.pop(TIERS_KEY, None)
    applied = {**config, "text_config": text} if nested else text
    return json.dumps(applied, indent=2, ensure_ascii=False) + "\n"


_ROPE_FIELDS = (*ROPE_BLOCKS, TIERS_KEY, "max_position_embeddings", "original_max_position_embeddings")


def _check_only_rope_differs(folder: Path, now: Config, before: Config) -> None:
    edited = sorted(_without_rope(now).items() ^ _without_rope(before).items())
    if edited:
        raise CheckpointError(
            f"Expected config.json in {folder} to differ from {BACKUP_NAME} in its rope only, found {edited[0][0]} "
            "changed too: restore the rope fields by hand so that your edit is not lost."
        )


def _without_rope(config: Config) -> dict[str, str]:
    """Every field that ``write_rope`` does not touch, as text so that two configs can be compared."""
    flat = {**config, **{f"text_config.{key}": value for key, value in text_config(config).items()}}
    return {
        key: json.dumps(value, sort_keys=True)
        for key, value in flat.items()
        if key.removeprefix("text_config.") not in _ROPE_FIELDS and key != "text_config"
    }
