"""Whether a server fits into the memory there is, asked before a weight is loaded, and the defaults of a long context.

The arithmetic is that of ``longrope plan``. Refused is only what cannot be served under any circumstances: what is
counted (weights, tables, keys and values of one sequence) is less than a server takes. Where something of it is not
known (quantized while loading, offloading, a kind of cache that is not planned), nothing is said.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from longrope_vllm.errors import CheckpointError, PlanError, UnsupportedError
from longrope_vllm.geometry import Config, has_longrope, text_config
from longrope_vllm.lengths import format_length
from longrope_vllm.memory import gigabytes
from longrope_vllm.plan.batch import array_bytes, sane_sequences
from longrope_vllm.plan.kv_cache import KV_DTYPES, KVDType, longest_sequence, sequence_bytes
from longrope_vllm.plan.layout import Layout, shares_heads
from longrope_vllm.plan.rope_tables import tier_bytes
from longrope_vllm.plan.served_model import DType, ServedModel

_UNSURE: Mapping[str, tuple[Any, ...]] = {
    "quantization": (None,),
    "cpu_offload_gb": (None, 0),
    "offload_group_size": (None, 0),
    "kv_offloading_size": (None, 0),
    "num_gpu_blocks_override": (None,),
    "decode_context_parallel_size": (None, 1),
    "data_parallel_size": (None, 1),
    "disable_sliding_window": (None, False),
    "load_format": ("auto", "hf", "safetensors", "dummy"),
}
"""Options of vLLM under which memory is counted otherwise, to the values with which it is not."""

_DTYPES: Mapping[str, DType | None] = {
    "auto": None,
    "bfloat16": "bfloat16",
    "half": "float16",
    "float16": "float16",
    "float": "float32",
    "float32": "float32",
}


@dataclass(frozen=True, kw_only=True)
class Room:
    """Memory of one worker, in bytes."""

    total: int
    share: float
    """Of ``total`` that vLLM may take."""
    cache: int | None
    """Of keys and values where the user says it; else what is left."""
    name: str
    """What has it."""
    cache_option: str
    """What makes the cache larger."""

    @property
    def usable(self) -> int:
        """Bytes for weights, tables and cache."""
        return self.total if self.cache is not None else int(self.total * self.share)


def fit_to_memory(arguments: argparse.Namespace, config: Config) -> tuple[str, ...]:
    """Set what the user left open and a long context needs otherwise; the lines that say what there is room for.

    Raises ``UnsupportedError`` for a server that cannot fit.
    """
    context = served_context(arguments, config)
    lines = [] if context is None else _limit_sequences(arguments, context)
    model, room = _model(arguments, config), memory_of_a_worker(arguments)
    if model is None or room is None:
        return tuple(lines)
    layout = Layout(tensor=arguments.tensor_parallel_size, pipeline=arguments.pipeline_parallel_size)
    if not shares_heads(model, layout.tensor):
        return tuple(lines)  # vLLM says so itself
    return (*_check(model, layout, context, _kv_dtype(arguments, model), room), *lines)


def served_context(arguments: argparse.Namespace, config: Config) -> int | None:
    """Tokens of the longest sequence; None where vLLM finds them by itself, from memory or a rope of another type."""
    asked = arguments.max_model_len
    if asked is not None:
        return int(asked) if asked > 0 else None
    return int(text_config(config)["max_position_embeddings"]) if has_longrope(config) else None


def memory_of_a_worker(arguments: argparse.Namespace) -> Room | None:
    """What one worker may use here; None where it is not known."""
    from vllm.platforms import current_platform

    ranks = arguments.tensor_parallel_size * arguments.pipeline_parallel_size
    share, stated = arguments.gpu_memory_utilization, arguments.kv_cache_memory_bytes
    if current_platform.is_cpu():
        if ranks > 1:
            return None  # which memory a rank has depends on the nodes of the machine
        space = os.environ.get("VLLM_CPU_KVCACHE_SPACE")
        return Room(
            total=current_platform.get_device_total_memory(),
            share=share,
            cache=int(space) << 30 if space else stated,
            name="this machine",
            cache_option="VLLM_CPU_KVCACHE_SPACE (GiB)",
        )
    if not current_platform.is_cuda_alike():
        return None
    return Room(
        total=current_platform.get_device_total_memory(),
        share=share,
        cache=stated,
        name="each GPU",
        cache_option="--kv-cache-memory-bytes" if stated else "--tensor-parallel-size",
    )


def _limit_sequences(arguments: argparse.Namespace, context: int) -> list[str]:
    """Fewer sequences at once than vLLM would take, where their token arrays would fill the host's memory."""
    if arguments.max_num_seqs is not None:
        return []
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    ranks = arguments.tensor_parallel_size * arguments.pipeline_parallel_size
    default = EngineArgs.get_batch_defaults(ranks)[1].get(UsageContext.OPENAI_API_SERVER)
    if default is None or (sane := sane_sequences(context, default)) == default:
        return []
    sane = min(sane, arguments.max_num_batched_tokens or sane)  # vLLM takes no more sequences than tokens in a step
    arguments.max_num_seqs = sane
    taken = gigabytes(array_bytes(context, default))
    said = f"{sane} sequences at once (--max-num-seqs): arrays for {default:,} would take {taken} in each worker"
    return [f"longrope: batch  {said}"]


def _model(arguments: argparse.Namespace, config: Config) -> ServedModel | None:
    """The model; None for one whose memory is not known."""
    if any(getattr(arguments, name, known[0]) not in known for name, known in _UNSURE.items()):
        return None
    if arguments.dtype not in _DTYPES:
        return None
    folder = Path(arguments.model)
    try:
        return ServedModel.of(config, folder if folder.is_dir() else None, dtype=_DTYPES[arguments.dtype])
    except (PlanError, CheckpointError):
        return None  # of a kind that is not planned; whether it can be served is for vLLM to say


def _kv_dtype(arguments: argparse.Namespace, model: ServedModel) -> KVDType | None:
    """Format of keys and values; None where it is not known. A quantized checkpoint may state one of its own."""
    stated = arguments.kv_cache_dtype
    if stated == "auto" and model.quantization is not None:
        return "fp8"  # the least it could be
    return cast(KVDType, stated) if stated in KV_DTYPES else None


def _check(
    model: ServedModel, layout: Layout, context: int | None, dtype: KVDType | None, room: Room
) -> tuple[str, ...]:
    """The line about memory. Raises ``UnsupportedError`` when it is too little."""
    weights = model.weight_bytes // layout.ranks
    tables = 0 if context is None else sum(tier_bytes(model, model.factors, context).values())
    cache = room.usable - weights - tables if room.cache is None else room.cache
    if cache <= 0 or weights + tables + cache > room.usable:
        kept = "" if room.cache is None else f" and {gigabytes(room.cache)} of keys and values"
        raise UnsupportedError(
            f"Expected memory for {gigabytes(weights)} of weights{kept} in {room.name}, found "
            f"{gigabytes(room.usable)}: take a smaller model, larger or more GPUs, or a smaller cache."
        )
    if context is None or dtype is None:
        return ()
    sequence = sequence_bytes(model, layout, context, chunk=0, dtype=dtype)
    if sequence > cache:
        longest = longest_sequence(model, layout, cache, chunk=0, dtype=dtype) // 1024 * 1024
        shorter = f"set --max-model-len to {format_length(longest)} or less, " if longest else ""
        raise UnsupportedError(
            f"Expected memory for one sequence of {context:,} tokens, {gigabytes(sequence)} of keys and values beside "
            f"{gigabytes(weights)} of weights in {room.name}, found {gigabytes(cache)} for it: {shorter}take "
            f"--kv-cache-dtype fp8, or raise {room.cache_option}."
        )
    room_for = f"up to {cache / sequence:.1f} sequences of {format_length(context)} ({gigabytes(sequence)} each)"
    return (f"longrope: memory {gigabytes(weights)} of weights; {gigabytes(cache)} for keys and values: {room_for}",)
