"""What each engine does with one checkpoint, in sentences made from the numbers in its ``config.json``.

In: the mapping of a ``config.json``. Out: an ``EngineView`` each for this project, stock vLLM, transformers and
llama.cpp. Read from their sources: vLLM 0.32 (``phi3_long_rope_scaled_rope.py``, ``config/model.py``), transformers
5.19 (``modeling_rope_utils.py``, ``modeling_phi3.py``, ``modeling_phimoe.py``), llama.cpp (``get_rope_factors`` in
``src/llama-model.cpp``, ``conversion/phi.py``, ``conversion/minicpm.py``, ``conversion/llama.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longrope_vllm.factors import Factors, Tier
from longrope_vllm.geometry import Config, Geometry, rope_parameters, text_config
from longrope_vllm.lengths import format_length
from longrope_vllm.plugin.tiers import ServedTiers
from longrope_vllm.rope import longrope_attention_factor, rescaled_inverse_frequencies
from longrope_vllm.rope_block import read_rope_block

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_RECOMPUTING = ("phi3", "phimoe", "phi4_multimodal")  # transformers drops their cache at the crossing
_SAMPLED = 256  # positions at the end of the window where the stock table is compared


@dataclass(frozen=True, kw_only=True)
class EngineView:
    """What ``engine`` does with the checkpoint."""

    engine: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TableError:
    """How far a stock cos/sin table is from the exact one, at the end of the window."""

    angle: float
    """Largest error of an angle, radians."""
    value: float
    """Largest error of a stored cos or sin."""


def engine_views(config: Config) -> list[EngineView]:
    """Every engine for a longrope checkpoint; this project alone for another, which it leaves as it is.

    Raises ``CheckpointError`` or ``FactorsError`` for a longrope block that no engine could serve.
    """
    served = served_tiers(config)
    if served is None:
        sentence = "Not a longrope checkpoint: served unchanged, as by vLLM without the plugin."
        return [EngineView(engine="longrope-vllm", sentences=(sentence,))]
    factors = read_rope_block(config)
    assert factors is not None
    return [
        EngineView(engine="longrope-vllm", sentences=_our_sentences(served)),
        EngineView(engine="stock vLLM", sentences=_stock_vllm_sentences(config, factors)),
        EngineView(engine="transformers", sentences=_transformers_sentences(config, factors)),
        EngineView(engine="llama.cpp", sentences=_llama_cpp_sentences(config, factors)),
    ]


def served_tiers(config: Config) -> ServedTiers | None:
    """The tiers that a server with default settings has, or None when the checkpoint is not longrope."""
    text = dict(text_config(config))
    declared = text.get("max_position_embeddings")  # a longrope block without it is refused when it is read
    return ServedTiers.from_config(text, declared if isinstance(declared, int) else 0)


def length_ranges(tiers: Sequence[Tier]) -> list[str]:
    """The sequence lengths of each tier, such as ``1–8k`` and ``8,193–16k``."""
    firsts = [1, *(tier.max_length + 1 for tier in tiers)]
    return [f"{first:,}–{format_length(tier.max_length)}" for first, tier in zip(firsts, tiers, strict=False)]


def stock_table_error(config: Config, factors: Factors) -> TableError:
    """Stock vLLM's table (float32 angles, rounded to the model's dtype) against float64, at the window's end."""
    long = factors.tiers[-1]
    last = long.max_length
    positions = torch.arange(max(0, last - _SAMPLED), last, dtype=torch.float64)
    exact = positions[:, None] * rescaled_inverse_frequencies(factors.rotary_dim, factors.base, long.factors)
    exponents = torch.arange(0, factors.rotary_dim, 2, dtype=torch.float32) / factors.rotary_dim
    inverse = 1.0 / (torch.tensor(long.factors, dtype=torch.float32) * factors.base**exponents)
    angles = positions.to(torch.float32)[:, None] * inverse  # [N, P]
    magnitude, dtype = long.attention_factor, _dtype(config)[1]
    errors = [
        ((function(angles) * magnitude).to(dtype).double() - function(exact) * magnitude).abs().max().item()
        for function in (torch.cos, torch.sin)
    ]
    return TableError(angle=(angles.double() - exact).abs().max().item(), value=max(errors))


def _our_sentences(served: ServedTiers) -> tuple[str, ...]:
    sentences = [
        f"{span} tokens: {_tier_text(tier)}."
        for span, tier in zip(length_ranges(served.tiers), served.tiers, strict=True)
    ]
    if served.last:
        sentences.append(
            "Each request gets the tier of its own length, side by side in one batch; one that outgrows its tier is "
            "computed again under the longer one."
        )
    return tuple(sentences)


def _stock_vllm_sentences(config: Config, factors: Factors) -> tuple[str, ...]:
    text = text_config(config)
    rope, geometry = rope_parameters(text), Geometry.from_config(config)
    window, declared = geometry.trained_window, geometry.max_positions
    derived = longrope_attention_factor(declared / window, window)
    short, long = (rope.get(name) or derived for name in ("short_mscale", "long_mscale"))
    if declared <= window:
        return (f"Serves up to {declared:,} tokens with the short factors, magnitude {short:.6g}.",)
    sentences = [
        f"Default: at most {window:,} tokens, all with the short factors and magnitude {short:.6g}; longer "
        "requests are refused."
        if text.get("original_max_position_embeddings") is not None
        else f"Default: up to {declared:,} tokens and the long factors for every request, for want of "
        "original_max_position_embeddings at the top level.",
        f"With --max-model-len above {window:,} (up to {declared:,}): the long factors and magnitude {long:.6g} for "
        "every request, however short.",
    ]
    ours = tuple(tier.attention_factor for tier in factors.tiers)
    if abs(short - ours[0]) > 1e-6 or abs(long - ours[-1]) > 1e-6:
        sentences.append(
            f"It derives {derived:.6g} where short_mscale or long_mscale is not stated and does not read "
            f"attention_factor or factor, which give {ours[0]:.6g} and {ours[-1]:.6g} here."
        )
    error, name = stock_table_error(config, factors), _dtype(config)[0]
    sentences.append(
        f"Its table is float32 angles rounded to {name}: at position {declared - 1:,} angles are off by up to "
        f"{error.angle:.2g} rad, cos and sin by {error.value:.2g}."
    )
    return tuple(sentences)


def _transformers_sentences(config: Config, factors: Factors) -> tuple[str, ...]:
    text = text_config(config)
    rope, geometry = rope_parameters(text), Geometry.from_config(config)
    window, family = geometry.trained_window, text.get("model_type")
    scale = float(rope.get("factor") or geometry.max_positions / window)
    common = float(rope.get("attention_factor") or longrope_attention_factor(scale, window))
    short = factors.tiers[0].attention_factor
    if family == "phimoe":  # its own rotary embedding, which never asks for the long list
        long = factors.tiers[-1].attention_factor
        sentences = [
            f"Uses the short factors at every length; only the magnitude changes, from {short:.6g} to {long:.6g}, "
            f"when the longest row of the batch passes {window:,} tokens."
        ]
    else:
        differs = "" if abs(common - short) < 1e-6 else f", where short_mscale is {short:.6g}"
        sentences = [
            f"Chooses per forward pass: the short factors while the longest row of the batch is within {window:,} "
            "tokens, else the long factors for every row.",
            f"Multiplies cos and sin by {common:.6g} in both cases{differs}.",
        ]
    sentences.append(
        f"generate() computes the whole cache again when a sequence passes {window:,} tokens."
        if family in _RECOMPUTING
        else f"generate() past {window:,} tokens keeps the keys it has cached in the short rotation."
    )
    return tuple(sentences)


def _llama_cpp_sentences(config: Config, factors: Factors) -> tuple[str, ...]:
    geometry, name = Geometry.from_config(config), _architecture(config)
    window, declared = geometry.trained_window, geometry.max_positions
    if name.startswith("Phi"):  # conversion/phi.py writes the lists, the window and a magnitude of its own
        magnitude = longrope_attention_factor(declared / window, window)
        return (
            f"Chooses by the context allocated to a sequence: above {window:,} tokens the long factors for every "
            f"request, also with the model's own {declared:,} (--ctx-size 0)."
            if declared > window
            else f"Uses the short factors up to {declared:,} tokens.",
            f"Its converter stores the magnitude {magnitude:.6g} for both and reads neither attention_factor nor "
            "short_mscale and long_mscale.",
        )
    if name.startswith("MiniCPM"):  # conversion/minicpm.py writes the lists only
        return (
            "Chooses by the context allocated to a sequence, but its converter does not store the window of "
            f"{window:,}: the short factors up to {declared:,} tokens, above it the long factors for every request.",
            "It stores no magnitude: 1 for both.",
        )
    return (
        f"Its converter stores factor lists for Phi-3 and MiniCPM models only: a {name} gets the plain rope and "
        f"magnitude 1 at every length, also above {window:,} tokens.",
    )


def _architecture(config: Config) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else str(config.get("model_type", "model"))


def _dtype(config: Config) -> tuple[str, torch.dtype]:
    """The dtype a server computes in; bfloat16 where the config names none."""
    text = text_config(config)
    stated = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    name = str(stated) if str(stated) in _DTYPES else "bfloat16"
    return name, _DTYPES[name]


def _tier_text(tier: Tier) -> str:
    if tier.is_plain:
        return "the plain rope of the base model"
    if all(factor == 1.0 for factor in tier.factors):
        return f"plain frequencies, attention factor {tier.attention_factor:.6g}"
    return f"factors {min(tier.factors):.4g} to {max(tier.factors):.4g}, attention factor {tier.attention_factor:.6g}"
