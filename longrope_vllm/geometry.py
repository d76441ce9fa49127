"""What a checkpoint's ``config.json`` says about its rope: the only place that reads a foreign configuration.

In: a checkpoint directory or the mapping in its ``config.json``. Out: a ``Geometry``. Both spellings of the rope
block are read (``rope_parameters`` of transformers 5 and ``rope_scaling`` before it), for the Llama, Mistral,
Qwen2/3, Phi-3/4 and MiniCPM families and whatever uses the same field names.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from longrope_vllm.errors import CheckpointError

Config = Mapping[str, Any]
Item = TypeVar("Item")

DEFAULT_BASE = 10_000.0
"""Rope base of a config that states none (the default of transformers for every family read here)."""

ROPE_BLOCKS = ("rope_parameters", "rope_scaling")
"""The two spellings of the rope block, newest first."""

_SHARED = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
"""Fields of a rope block that every type has; ``Geometry`` states them by name."""

_OLD_NAMES = {"rope_theta": ("rotary_emb_base",), "partial_rotary_factor": ("rotary_pct", "rotary_emb_fraction")}
"""Names of such fields beside the block in older configs (GPT-NeoX, code of a checkpoint's own), as vLLM reads them."""

_TYPE_NAMES = {"su": "longrope"}  # the first Phi-3 checkpoints call longrope "su"


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The rotary geometry of one checkpoint. Lengths are in tokens."""

    head_size: int
    rotary_dim: int
    """Rotated elements of a head; even, at most ``head_size``."""
    base: float
    trained_window: int
    """Positions seen in pretraining (``original_max_position_embeddings`` where a checkpoint was stretched)."""
    max_positions: int
    """``max_position_embeddings`` as declared: the length the checkpoint claims to serve."""
    rope_type: str
    rope: Mapping[str, Any] = field(default_factory=dict)
    """What the rope block states for its type (factors, betas ...), without the fields above."""

    @property
    def pairs(self) -> int:
        """Rotary pairs: how many factors one tier has."""
        return self.rotary_dim // 2

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path) -> Self:
        """Read ``config.json`` of a checkpoint directory. Raises ``CheckpointError``."""
        return cls.from_config(read_config(checkpoint))

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Read the mapping of a ``config.json``. Raises ``CheckpointError`` when a field is missing or conflicts."""
        text = text_config(config)
        rope = rope_parameters(text)
        head_size, rotary_dim = _head_and_rotary_dim(text, rope)
        max_positions = positive_int(text, "max_position_embeddings")
        trained_window = _trained_window(text, rope, max_positions)
        if trained_window < 2:  # ratios of its logarithm are what ropes are made of
            raise CheckpointError(f"Expected a trained window of at least two tokens, found {trained_window}.")
        return cls(
            head_size=head_size,
            rotary_dim=rotary_dim,
            base=_under_any_name("rope_theta", rope, text, default=DEFAULT_BASE, above=1.0),
            trained_window=trained_window,
            max_positions=max_positions,
            rope_type=rope_type(rope),
            rope={name: value for name, value in rope.items() if name not in _SHARED and value is not None},
        )


def read_config(checkpoint: str | Path, name: str = "config.json") -> dict[str, Any]:
    """The mapping in ``config.json`` of ``checkpoint``. Raises ``CheckpointError`` when it cannot be read."""
    path = Path(checkpoint)
    if not path.is_dir():
        raise CheckpointError(f"Expected a checkpoint directory, found none at {path}: check the path.")
    try:
        config = json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"Expected {name} in {path}, found none: is this a checkpoint?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"Expected readable JSON in {path / name}, found: {error}.") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"Expected an object in {path / name}, found a {type(config).__name__}.")
    return config


def text_config(config: Config) -> Config:
    """The language model's part of ``config`` (multimodal checkpoints nest it under ``text_config``)."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def rope_parameters(config: Config) -> Config:
    """The rope block of a text config, empty when it has none. Raises ``CheckpointError`` where layers differ."""
    stated = [config[name] for name in ROPE_BLOCKS if config.get(name)]
    if any(block != stated[0] for block in stated):
        raise CheckpointError(
            f"Expected one rope block in config.json, found {' and '.join(ROPE_BLOCKS)} that differ: engines read "
            "different ones, so remove one."
        )
    rope = stated[0] if stated else {}
    if not isinstance(rope, Mapping):
        raise CheckpointError(f"Expected an object as rope block of config.json, found {rope!r}.")
    by_layer = {name: block for name, block in rope.items() if isinstance(block, Mapping)}
    if not by_layer:
        return rope
    blocks = list(by_layer.values())
    if any(block != blocks[0] for block in blocks):
        raise CheckpointError(
            f"Expected one rope for all layers in config.json, found {len(blocks)} that differ "
            f"({', '.join(by_layer)}): models with several ropes are not supported."
        )
    return dict(blocks[0])


def has_longrope(config: Config) -> bool:
    """True when any rope block of the text config, also one for some layers only, is of type longrope."""
    text = text_config(config)
    blocks = [text[name] for name in ROPE_BLOCKS if isinstance(text.get(name), Mapping)]
    blocks += [block for by_layer in blocks for block in by_layer.values() if isinstance(block, Mapping)]
    return any(rope_type(block) == "longrope" for block in blocks)


def rope_type(rope: Config) -> str:
    """The block's type name, with the alias ``su`` resolved to ``longrope``."""
    name = str(rope.get("rope_type") or rope.get("type") or "default")
    return _TYPE_NAMES.get(name, name)


def positive_int(config: Config, field: str) -> int:
    """The whole number above 0, of 63 bits, that ``config`` must state as ``field``. Raises ``CheckpointError``."""
    value = config.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise CheckpointError(f"Expected a positive whole number as {field} in config.json, found {value!r:.80}.")
    return value


def whole_number(config: Config, field: str, *, default: int) -> int:
    """The whole number that ``config`` states as ``field``; ``default`` if it states none, null or 0.

    Raises ``CheckpointError``.
    """
    return positive_int(config, field) if config.get(field) not in (None, 0) else default


def list_of(config: Config, field: str, kind: type[Item]) -> list[Item]:
    """What ``config`` lists as ``field``, nothing if it states nothing. Raises ``CheckpointError``."""
    value = config.get(field)
    if value is not None and not (isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)):
        raise CheckpointError(f"Expected a list of {kind.__name__} as {field} in config.json, found {value!r:.80}.")
    return list(value or ())


def positive_number(field: str, *blocks: Config, default: float, above: float = 0.0) -> float:
    """The finite number that the first of ``blocks`` states as ``field``; null counts as not stated."""
    value = next((block[field] for block in blocks if block.get(field) is not None), default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value <= sys.float_info.max:
        raise CheckpointError(f"Expected a number above {above:g} as {field} in config.json, found {value!r}.")
    return float(value)


def _head_and_rotary_dim(config: Config, rope: Config) -> tuple[int, int]:
    if config.get("qk_rope_head_dim"):  # latent attention (MiniCPM3, DeepSeek): a head part of its own is rotated
        rotary = positive_int(config, "qk_rope_head_dim")
        return rotary, _even_up_to(rotary, rotary)
    if config.get("head_dim"):
        head_size = positive_int(config, "head_dim")
    else:
        head_size = positive_int(config, "hidden_size") // positive_int(config, "num_attention_heads")
    partial = _under_any_name("partial_rotary_factor", rope, config, default=1.0)
    return head_size, _even_up_to(head_size, int(head_size * partial))


def _under_any_name(field: str, rope: Config, config: Config, *, default: float, above: float = 0.0) -> float:
    """The number that ``rope``, or else ``config``, states as ``field`` or by an older name.

    Raises ``CheckpointError`` where names disagree.
    """
    names = (field, *_OLD_NAMES[field])
    blocks = {name: [config] for name in names} | {field: [rope, config]}
    stated = {
        name: positive_number(name, *blocks[name], default=default, above=above)
        for name in names
        if any(block.get(name) is not None for block in blocks[name])
    }
    if len(set(stated.values())) > 1:
        raise CheckpointError(
            f"Expected one {field} in config.json, found "
            + " and ".join(f"{value:g} as {name}" for name, value in stated.items())
            + ": engines read different ones, so make them equal or remove all but one."
        )
    return next(iter(stated.values()), default)


def _even_up_to(head_size: int, rotary_dim: int) -> int:
    if not 0 < rotary_dim <= head_size or rotary_dim % 2:
        raise CheckpointError(
            f"Expected an even number of rotary dimensions up to the head size {head_size} in config.json, "
            f"found {rotary_dim}."
        )
    return rotary_dim


def _trained_window(config: Config, rope: Config, max_positions: int) -> int:
    stated = {
        place: positive_int(block, "original_max_position_embeddings")
        for place, block in (("the config", config), ("its rope block", rope))
        if block.get("original_max_position_embeddings") is not None
    }
    if len(set(stated.values())) > 1:
        raise CheckpointError(
            "Expected one original_max_position_embeddings in config.json, found "
            + " and ".join(f"{value} in {place}" for place, value in stated.items())
            + ": engines read different ones, so make them equal."
        )
    if stated:
        return next(iter(stated.values()))
    if rope_type(rope) == "longrope":
        raise CheckpointError(
            "Expected original_max_position_embeddings beside the longrope block in config.json, found none: "
            "add the window the model was pretrained with."
        )
    return max_positions
