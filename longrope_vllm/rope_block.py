"""The rope block of a checkpoint: read it as ``Factors``, write a portable one, undo it, lint it.

Engines read different fields of the same block: transformers takes ``factor`` and ``attention_factor``, vLLM
``short_mscale`` and ``long_mscale``; vLLM's safe default length looks for ``original_max_position_embeddings`` at the
top level only, transformers 5 prefers it there. A portable block states all of them, consistently.
"""

import json
from pathlib import Path
from typing import Any

from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import CheckpointError, FactorsError
from longrope_vllm.factors import Factors, Origin, Tier
from longrope_vllm.geometry import (
    ROPE_BLOCKS,
    Config,
    Geometry,
    positive_number,
    read_config,
    rope_parameters,
    rope_type,
    text_config,
)
from longrope_vllm.rope.attention_factor import longrope_attention_factor

BACKUP_NAME = "config.json.before-longrope"


def read_rope_block(config: Config) -> Factors | None:
    """The two tiers of a longrope checkpoint, or None when its rope is of another type.

    Magnitudes: ``short_mscale`` / ``long_mscale`` where stated, else ``attention_factor``, else
    ``sqrt(1 + ln s / ln L)`` for both tiers, as the engines do. Raises ``CheckpointError`` or ``FactorsError``.
    """
    text = text_config(config)
    rope = rope_parameters(text)
    if rope_type(rope) != "longrope":
        return None
    geometry = Geometry.from_config(config)
    scale = positive_number("factor", rope, default=geometry.max_positions / geometry.trained_window)
    derived = longrope_attention_factor(scale, geometry.trained_window)
    common = positive_number("attention_factor", rope, default=derived)
    tiers = [
        Tier(
            max_length=max_length,
            factors=_factor_list(rope, f"{name}_factor"),
            attention_factor=positive_number(f"{name}_mscale", rope, default=common),
        )
        for name, max_length in (("short", geometry.trained_window), ("long", geometry.max_positions))
    ]
    if geometry.max_positions <= geometry.trained_window:
        tiers = tiers[:1]
    return Factors(
        rotary_dim=geometry.rotary_dim,
        base=geometry.base,
        trained_window=geometry.trained_window,
        tiers=tuple(tiers),
        origin=Origin(method="checkpoint"),
    )


def portable_fields(config: Config, factors: Factors) -> dict[str, Any]:
    """The fields of a text config that make it a two-tier longrope checkpoint, in the spelling it already uses.

    A mapping that has neither spelling (a config of transformers 4 with a plain rope) gets ``rope_scaling``.

    Raises ``FactorsError`` when the factors belong to another rope, or hold what a rope block cannot say (start
    tokens, more than a short and a long tier).
    """
    text = text_config(config)
    geometry = Geometry.from_config(text)
    factors.check_fits(geometry)
    tiers = factors.with_plain_tier().tiers
    if len(tiers) != 2 or tiers[0].max_length != factors.trained_window:
        raise FactorsError(
            f"Expected one tier up to the trained window of {factors.trained_window} and one above it, found tiers up "
            f"to {', '.join(str(tier.max_length) for tier in tiers)}: a rope block of config.json holds two."
        )
    if any(tier.start_tokens for tier in tiers):
        raise FactorsError(
            "Expected tiers without start_tokens, found some: a rope block of config.json cannot state them."
        )
    short, long = tiers
    spellings = [name for name in ROPE_BLOCKS if text.get(name)] or [
        "rope_parameters" if "rope_parameters" in text else "rope_scaling"
    ]
    block = {
        "rope_type": "longrope",
        "type": "longrope",
        "rope_theta": geometry.base,
        "factor": long.max_length / factors.trained_window,
        "original_max_position_embeddings": factors.trained_window,
        "attention_factor": long.attention_factor,
        "short_mscale": short.attention_factor,
        "long_mscale": long.attention_factor,
        "short_factor": list(short.factors),
        "long_factor": list(long.factors),
    }
    partial = rope_parameters(text).get("partial_rotary_factor")
    if partial is not None:
        block["partial_rotary_factor"] = partial
    return {
        **dict.fromkeys(spellings, block),
        "max_position_embeddings": long.max_length,
        "original_max_position_embeddings": factors.trained_window,
    }


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


def lint(config: Config) -> list[str]:
    """What other engines would read differently in this longrope config; empty when they agree."""
    text = text_config(config)
    rope = rope_parameters(text)
    if rope_type(rope) != "longrope":
        return []
    factors = read_rope_block(config)
    assert factors is not None
    short, long = factors.tiers[0], factors.tiers[-1]
    findings = []
    for field in ("short_mscale", "long_mscale"):
        if rope.get(field) is None:
            findings.append(f"{field} is not stated: vLLM derives it from the lengths")
    if rope.get("attention_factor") is None and rope.get("factor") is None:
        findings.append("factor and attention_factor are not stated: transformers derives them from the lengths")
    stated = [rope[field] for field in ("attention_factor", "long_mscale") if rope.get(field) is not None]
    if len(set(stated)) > 1:
        findings.append(
            f"attention_factor {stated[0]:g} and long_mscale {stated[1]:g} differ: transformers takes the first, vLLM "
            "the second"
        )
    if text.get("original_max_position_embeddings") is None:
        findings.append("original_max_position_embeddings is missing at the top level, where vLLM looks for it")
    if short.attention_factor != long.attention_factor:
        findings.append(
            f"the magnitudes differ (short {short.attention_factor:g}, long {long.attention_factor:g}): transformers "
            "applies attention_factor to both"
        )
    if any(later < earlier for earlier, later in zip(long.factors, long.factors[1:], strict=False)):
        findings.append("the long factors are not non-decreasing, unlike searched ones")
    return findings


def _applied(config: dict[str, Any], factors: Factors) -> str:
    fields = portable_fields(config, factors)
    nested = isinstance(config.get("text_config"), dict)
    applied = {**config, "text_config": {**config["text_config"], **fields}} if nested else {**config, **fields}
    return json.dumps(applied, indent=2, ensure_ascii=False) + "\n"


_ROPE_FIELDS = (*ROPE_BLOCKS, "max_position_embeddings", "original_max_position_embeddings")


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


def _factor_list(rope: Config, field: str) -> tuple[float, ...]:
    values = rope.get(field)
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    ):
        raise CheckpointError(f"Expected a list of numbers as {field} of the rope block, found {values!r}.")
    return tuple(float(value) for value in values)
