"""What of a checkpoint decides the memory and the arithmetic of serving it.

In: ``config.json`` and, where they are there, the headers of the weights or their index. Out: a ``ServedModel``.
Counted are decoders with full or sliding-window attention, dense or with experts; others are refused by name, because
their cache is another one.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from longrope_vllm.errors import CheckpointError, FactorsError, PlanError
from longrope_vllm.factors import Factors, own_tier
from longrope_vllm.geometry import Config, Geometry, list_of, positive_int, text_config, whole_number
from longrope_vllm.memory import mlp_width
from longrope_vllm.plan.sliding import sliding_layers
from longrope_vllm.rope_block import read_rope_block
from longrope_vllm.weights import INDEX, count_elements, weight_files

DType = Literal["bfloat16", "float16", "float32"]
DTYPES: tuple[DType, ...] = get_args(DType)

Source = Literal["files", "index", "config"]
"""What says how many weights there are; ``config``: the sizes alone."""

_SIZES = {"bfloat16": 2, "float16": 2, "float32": 4}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_OTHER_CACHES = {
    "latent attention (kv_lora_rank)": ("kv_lora_rank",),
    "state-space or linear layers": ("mamba_d_state", "ssm_cfg", "ssm_state_size", "linear_num_key_heads"),
    "attention in chunks (attention_chunk_size)": ("attention_chunk_size",),
    "an encoder": ("is_encoder_decoder",),
    "layers that share a cache (num_kv_shared_layers)": ("num_kv_shared_layers",),
}
"""What is not planned, to the fields that tell it."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """Sizes of one language model. Lengths in tokens, sizes in elements unless they say bytes."""

    layers: int
    sliding_layers: int
    """Of these, the ones that see ``window`` tokens only."""
    window: int
    """0 without such layers."""
    hidden: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    """Inside of the MLPs that one token goes through in a layer."""
    vocabulary: int
    parameters: int
    active: int
    """Parameters of matrices that every token of a prompt goes through: without embedding, head and idle experts."""
    embeddings: int
    """Parameters of the embedding, and of the head where it is one of its own."""
    dtype: DType
    """Of the arithmetic and, unless said otherwise, of the cache."""
    weight_bytes: int
    counted: Source
    """Where ``weight_bytes`` comes from."""
    quantization: str | None
    """Method of a quantized checkpoint."""
    geometry: Geometry
    factors: Factors | None
    """Of a longrope checkpoint."""

    @classmethod
    def of(cls, config: Config, checkpoint: Path | None = None, *, dtype: DType | None = None) -> Self:
        """The model of ``config`` (that of a ``config.json``), its weights counted in ``checkpoint`` if they are there.

        ``dtype``: as ``--dtype``; left out, what vLLM's ``auto`` would take. Raises ``PlanError`` for a kind of model
        that is not planned, ``CheckpointError`` for a configuration that lacks a field.
        """
        text = text_config(config)
        _check_cache(text)
        hidden, heads = positive_int(text, "hidden_size"), positive_int(text, "num_attention_heads")
        sizes: dict[str, int] = {
            "layers": positive_int(text, "num_hidden_layers"),
            "hidden": hidden,
            "heads": heads,
            "kv_heads": whole_number(text, "num_key_value_heads", default=heads),
            "head": whole_number(text, "head_dim", default=hidden // heads),
            "vocabulary": positive_int(text, "vocab_size"),
        }
        tied = bool(text.get("tie_word_embeddings", False))
        embeddings = sizes["vocabulary"] * hidden * (1 if tied else 2)
        attention = 2 * hidden * sizes["head"] * (heads + sizes["kv_heads"])
        inner, mlps, idle = _mlps(text, sizes["layers"], hidden)
        counted = embeddings + sizes["layers"] * (attention + 2 * hidden) + mlps + hidden
        served_as = dtype or _auto_dtype(text)
        quantization = _quantization(config)
        weight_bytes, source, parameters = _stored(checkpoint, text, _SIZES[served_as], quantization) or (
            _estimated(config, text, counted, embeddings, _SIZES[served_as], quantization),
            "config",
            counted,
        )
        window, sliding = sliding_layers(text, sizes["layers"])
        return cls(
            **sizes,
            sliding_layers=sliding,
            window=window,
            inner=inner,
            parameters=parameters,
            active=parameters - embeddings - idle,
            embeddings=embeddings,
            dtype=served_as,
            weight_bytes=weight_bytes,
            counted=source,
            quantization=quantization,
            geometry=Geometry.from_config(config),
            factors=read_rope_block(config),
        )

    @property
    def size(self) -> int:
        """Bytes an element of ``dtype``."""
        return _SIZES[self.dtype]

    @property
    def reach(self) -> int:
        """Tokens that its rope is meant for, as the checkpoint states it."""
        if self.factors is not None:
            return self.factors.max_length
        try:
            return max(own_tier(self.geometry).max_length, self.geometry.trained_window)
        except (CheckpointError, FactorsError):  # a type of rope that is not known here: what it declares
            return self.geometry.max_positions

    @property
    def fp8_weight_bytes(self) -> int:
        """Bytes of the weights with ``--quantization fp8``: one for each parameter but those of the embeddings."""
        return self.parameters - self.embeddings + self.embeddings * self.size


def _check_cache(config: Config) -> None:
    for name, fields in _OTHER_CACHES.items():
        if any(config.get(field) for field in fields):
            raise PlanError(f"Expected a decoder with a cache of keys and values, found {name}: it cannot be planned.")
    kinds = set(list_of(config, "layer_types", str)) - {"full_attention", "sliding_attention"}
    if kinds:
        raise PlanError(
            f"Expected layers of full_attention and sliding_attention, found {', '.join(sorted(kinds))} in layer_types "
            "of config.json: it cannot be planned."
        )


def _mlps(config: Config, layers: int, hidden: int) -> tuple[int, int, int]:
    """Width of the inside of one layer's MLPs for a token, parameters of all MLPs, and of the experts left idle."""
    count = max(whole_number(config, name, default=0) for name in _EXPERTS)
    if not count:
        return mlp_width(config), layers * 3 * hidden * mlp_width(config), 0
    dense = whole_number(config, "first_k_dense_replace", default=0) + len(list_of(config, "mlp_only_layers", int))
    width = whole_number(config, "moe_intermediate_size", default=mlp_width(config))
    shared = whole_number(config, "shared_expert_intermediate_size", default=0)
    shared += width * whole_number(config, "n_shared_experts", default=0)
    chosen = min(count, whole_number(config, "num_experts_per_tok", default=1))
    routed = max(0, layers - dense)
    mlps = dense * 3 * hidden * mlp_width(config) + routed * hidden * (3 * (count * width + shared) + count)
    return chosen * width + shared, mlps, routed * 3 * hidden * width * (count - chosen)


def _stored_dtype(config: Config) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch.")


def _auto_dtype(config: Config) -> DType:
    """vLLM serves float32 checkpoints in bfloat16 unless told otherwise."""
    return "float16" if _stored_dtype(config) == "float16" else "bfloat16"


def _quantization(config: Config) -> str | None:
    block = config.get("quantization_config") or text_config(config).get("quantization_config")
    return str(block.get("quant_method", "unknown")) if isinstance(block, dict) else None


def _stored(
    checkpoint: Path | None, config: Config, size: int, quantization: str | None
) -> tuple[int, Source, int] | None:
    """Bytes as served, where they were found, and parameters; None where there are neither weights nor an index."""
    if checkpoint is None:
        return None
    if (checkpoint / INDEX).is_file() and not any(checkpoint.glob("*.safetensors")):
        total = _index_total(checkpoint / INDEX)
        if total is None or quantization:
            return None
        elements = total // _SIZES.get(_stored_dtype(config), 2)
        return elements * size, "index", elements
    files = weight_files(checkpoint)
    if not files:
        return None
    elements = count_elements(files, tied=bool(config.get("tie_word_embeddings", False)))
    stored = sum(file.path.stat().st_size - len(file.head) for file in files)
    return (stored if quantization else elements * size), "files", elements


def _index_total(path: Path) -> int | None:
    """Bytes of all tensors, which an index states for files that may lie elsewhere."""
    try:
        total: Any = json.loads(path.read_text(encoding="utf-8"))["metadata"]["total_size"]
        return int(total)
    except (ValueError, KeyError, TypeError):
        return None  # older indices have none


def _estimated(
    config: Config, text: Config, parameters: int, embeddings: int, size: int, quantization: str | None
) -> int:
    if "vision_config" in config or "audio_config" in config:
        raise PlanError(
            "Expected weights or their index for a model with more than text, found config.json alone: put "
            f"{INDEX} beside it."
        )
    if text.get("model_type") not in _GATED:
        raise PlanError(
            f"Expected weights, their index, or a model of type {', '.join(_GATED)}, found config.json of "
            f"{text.get('model_type')} alone: put {INDEX} beside it."
        )
    if quantization is None:
        return parameters * size
    if quantization == "fp8":
        return parameters - embeddings + embeddings * size
    block = config.get("quantization_config") or text["quantization_config"]
    bits = block.get("bits") or block.get("w_bit")
    if not isinstance(bits, int):
        raise PlanError(
            f"Expected weights, fp8 or a number of bits in quantization_config, found {quantization!r} without: put "
            "the weights beside config.json."
        )
    return round((parameters - embeddings) * (bits / 8 + _SCALES)) + embeddings * size


_GATED = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen2_moe",
    "qwen3_moe",
    "phi3",
    "phimoe",
    "minicpm",
    "granite",
)
"""Types of models whose layers are counted here: three matrices in an MLP."""

_SCALES = (2 + 0.5) / 128  # bytes a parameter of GPTQ's and AWQ's scales and zeros, for their usual groups of 128
