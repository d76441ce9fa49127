"""Whether a recipe, its checkpoint, its factors and this machine fit each other, told before anything is loaded.

Read are ``config.json``, the factors, and whether there is a tokenizer: no weights, no text. What a recipe can say
about itself alone is checked in ``recipe``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from longrope_training.parallel import flash_is_used
from longrope_training.recipe import Recipe, Stage
from longrope_training.sharing import check_shared, heads_of, launched
from longrope_vllm.errors import TrainingError
from longrope_vllm.evaluation.loading import device_named
from longrope_vllm.factors import Factors, Tier, own_tier
from longrope_vllm.factors_file import read_factors
from longrope_vllm.geometry import Geometry, read_config, text_config
from longrope_vllm.rope_block import check_fits, read_rope_block

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "tekken.json")


@dataclass(frozen=True, kw_only=True)
class StageFit:
    """One stage with what it is trained under."""

    stage: Stage
    factors: Factors
    """Tiers of the stage, the checkpoint's own one in front."""
    tier: Tier
    """The one that serves sequences of the stage's length, under which its long rows are trained."""
    row: int
    """Tokens of a row: the length of the stage, or the window of the own tier with ``pose``."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A recipe that can be run, with what was read for that."""

    config: Mapping[str, Any]
    """The language model's part of ``config.json``."""
    geometry: Geometry
    """The rope that factors are relative to; of a longrope checkpoint the one below its block."""
    own: Tier
    """The checkpoint's own rope, which short rows keep; of a longrope checkpoint its shortest tier."""
    stages: tuple[StageFit, ...]
    heads: int
    """Attention heads of a layer."""
    kv_heads: int
    """Of keys and values."""
    device: torch.device
    processes: int | None
    """Of the run; None where nobody has said."""


def check_fit(recipe: Recipe, *, processes: int | None = None) -> Fit:
    """What the stages of ``recipe`` are trained under.

    ``processes`` of the run are those that a launcher says (``WORLD_SIZE``) unless named; nothing that depends on them
    is checked where neither does. A checkpoint that has a longrope block already is tuned further: its own rope is the
    shortest tier of that block. Raises ``LongRopeError``, one sentence for whatever does not fit.
    """
    config = text_config(read_config(recipe.model))
    if not any((recipe.model / name).is_file() for name in _TOKENIZERS):
        raise TrainingError(
            f"Expected a tokenizer in {recipe.model}, found none of {', '.join(_TOKENIZERS)}: put the checkpoint's own "
            "files there."
        )
    block = read_rope_block(config)
    geometry = Geometry.from_config(config) if block is None else block.geometry
    own = own_tier(geometry) if block is None else block.tiers[0]
    heads, kv_heads = heads_of(config)
    fit = Fit(
        config=config,
        geometry=geometry,
        own=own,
        stages=tuple(_stage_fit(recipe, stage, config, own) for stage in recipe.stages),
        heads=heads,
        kv_heads=kv_heads,
        device=device_named(recipe.device),
        processes=launched() if processes is None else processes,
    )
    _check_ways(recipe, fit)
    _check_installed(recipe)
    _check_device(recipe, fit)
    _check_window(recipe, fit)
    return fit


def _stage_fit(recipe: Recipe, stage: Stage, config: Mapping[str, Any], own: Tier) -> StageFit:
    file = stage.factors or recipe.factors
    assert file is not None  # a recipe has factors for every stage
    factors = read_factors(file)
    check_fits(config, factors)
    if stage.length <= own.max_length:
        raise TrainingError(
            f"Expected stages above the {own.max_length:,} tokens of the checkpoint's own rope, found one of "
            f"{stage.length:,}: up to there is nothing to stretch, so name a longer --stage."
        )
    if stage.length > factors.max_length:
        raise TrainingError(
            f"Expected factors that reach the {stage.length:,} tokens of a stage, found some up to "
            f"{factors.max_length:,} in {file}: search or name factors for that length, or shorten the stage."
        )
    factors = factors.with_own_tier(own)
    return StageFit(
        stage=stage,
        factors=factors,
        tier=factors.tier_for(stage.length),
        row=own.max_length if recipe.positions == "pose" else stage.length,
    )


def _check_installed(recipe: Recipe) -> None:
    """Packages that an option needs and that are not part of the extra ``train`` everywhere."""
    for option, asked, package, module in (
        ("--attention flash", recipe.attention == "flash", "flash-attn", "flash_attn"),
        ("--parallel sp", recipe.parallel == "sp", "deepspeed", "deepspeed"),
    ):
        if asked and find_spec(module) is None:
            raise TrainingError(
                f"Expected {package} for {option}, found none installed: pip install {package}, or leave the option "
                "out."
            )


def _check_device(recipe: Recipe, fit: Fit) -> None:
    """What needs a GPU."""
    if fit.device.index is not None:
        raise TrainingError(
            f"Expected --device auto, cpu or cuda, found {fit.device}: name a GPU by CUDA_VISIBLE_DEVICES, for "
            "transformers trains on the first that it sees."
        )
    if recipe.offload and not recipe.checkpointing:
        raise TrainingError("Expected checkpointing with offload, which moves what it keeps: leave one of them out.")
    if recipe.attention == "flash" and recipe.dtype != "bfloat16":
        raise TrainingError(f"Expected --dtype bfloat16 for --attention flash, found {recipe.dtype}.")
    if recipe.parallel == "sp" and recipe.dtype != "float32" and fit.device.type != "cuda":
        raise TrainingError(f"Expected --dtype float32 for --parallel sp without a GPU, found {recipe.dtype}.")
    for option, asked in (
        ("--attention flash", recipe.attention == "flash"),
        ("--parallel cp", recipe.parallel == "cp"),
        ("--offload", recipe.offload),
    ):
        if asked and fit.device.type != "cuda":
            raise TrainingError(
                f"Expected a CUDA device for {option}, found {fit.device}: leave it out here, or train on a GPU."
            )


def _check_ways(recipe: Recipe, fit: Fit) -> None:
    """What depends on how many processes share a row."""
    if recipe.alone:
        if recipe.ways not in (None, 1):
            raise TrainingError(
                f"Expected --parallel sp or cp for {recipe.ways} ways, found {recipe.parallel}, where each process has "
                "rows of its own: name one, or leave --ways out."
            )
        return
    if recipe.parallel == "cp":
        _check_ring(recipe, fit)
    processes = fit.processes
    ways = recipe.ways or processes
    if ways is None:
        return
    if processes is not None and processes % ways:
        raise TrainingError(
            f"Expected processes in groups of {ways} for --ways {ways}, found {processes}: start a multiple of it."
        )
    check_shared(recipe.parallel, ways, heads=fit.heads, kv_heads=fit.kv_heads)
    parts = 2 * ways if recipe.parallel == "cp" else ways  # a ring gives each process one early and one late part
    for one in fit.stages:
        if one.row % parts:
            raise TrainingError(
                f"Expected rows that {ways} processes can share out in {parts} equal parts, found one of {one.row:,} "
                f"tokens: name a --stage that is a multiple of {parts}, or other --ways."
            )


def _check_window(recipe: Recipe, fit: Fit) -> None:
    """Layers that see a window of a row need flash-attn."""
    window = _sliding_window(fit.config)
    longest = max(one.row for one in fit.stages)
    if window is not None and window < longest and not flash_is_used(recipe):
        raise TrainingError(
            f"Expected flash-attn for layers that see {window:,} tokens of a row of {longest:,}, found SDPA, which "
            'shows them all of it: pip install "longrope-vllm[flash]" and train on a GPU in bfloat16.'
        )


def _check_ring(recipe: Recipe, fit: Fit) -> None:
    """A ring sees one document a row, whole, through PyTorch's own attention."""
    window = _sliding_window(fit.config)
    for found, asked in (
        (f"rows of short documents (--short-share {recipe.short_share:g})", recipe.short_share > 0),
        ("--attention flash", recipe.attention == "flash"),
        ("--positions pose", recipe.positions == "pose"),
        (f"layers that see {window} tokens", window is not None and window < max(one.row for one in fit.stages)),
    ):
        if asked:
            raise TrainingError(
                f"Expected one document a row under full attention for --parallel cp, found {found}: take "
                "--parallel sp, or leave it out."
            )


def _sliding_window(config: Mapping[str, Any]) -> int | None:
    """Tokens that some layers see, or None where all see everything."""
    kinds = config.get("layer_types")
    if not config.get("use_sliding_window", True) or (kinds is not None and "sliding_attention" not in kinds):
        return None
    window: int | None = config.get("sliding_window")
    return window
