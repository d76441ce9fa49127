"""What the keys and values of a sequence take.

One pool of blocks serves all tiers: a token takes the same in each. vLLM gives a layer of full attention a block for
every ``BLOCK`` tokens, and a sliding-window layer only as many as its window and the tokens in flight need
(``SlidingWindowSpec.max_admission_blocks_per_request``).
"""

from typing import Literal, get_args

from longrope_vllm.plan.layout import Layout
from longrope_vllm.plan.served_model import ServedModel

KVDType = Literal["auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2"]
KV_DTYPES: tuple[KVDType, ...] = get_args(KVDType)
"""Of vLLM's ``--kv-cache-dtype``, those whose bytes are known here."""

BLOCK = 16
"""Tokens of a block on a GPU; the CPU engine's have 128."""


def element_bytes(model: ServedModel, dtype: KVDType) -> int:
    """Bytes of a number in the cache."""
    if dtype == "auto":
        return model.size
    return 1 if dtype.startswith("fp8") else 2


def token_bytes(model: ServedModel, dtype: KVDType = "auto") -> int:
    """Bytes that a token takes in all layers, each head counted once, no window considered."""
    return 2 * model.layers * model.kv_heads * model.head * element_bytes(model, dtype)


def sequence_bytes(
    model: ServedModel,
    layout: Layout,
    tokens: int,
    *,
    chunk: int,
    dtype: KVDType = "auto",
    block: int = BLOCK,
) -> int:
    """Bytes in one GPU (of the longest stage) for a sequence of ``tokens``, computed ``chunk`` at a time."""
    of_a_block = 2 * block * layout.kv_heads(model) * model.head * element_bytes(model, dtype)
    full = -(-tokens // block)
    in_flight = chunk * (layout.pipeline + 1)  # one step for each stage, and one more with asynchronous scheduling
    sliding = min(full, -(-(model.window - 1 + in_flight) // block) + 1) if model.window else 0
    share = layout.layers(model) / model.layers
    blocks = (model.layers - model.sliding_layers) * full + model.sliding_layers * sliding
    return round(share * blocks * of_a_block)


def longest_sequence(
    model: ServedModel, layout: Layout, memory: int, *, chunk: int, dtype: KVDType = "auto", block: int = BLOCK
) -> int:
    """Tokens of the longest sequence, in whole blocks, whose keys and values fit into ``memory`` bytes of each GPU."""
    low, high = 0, 1 << 36  # blocks: more tokens than any model reads
    while low < high:
        middle = (low + high + 1) // 2
        taken = sequence_bytes(model, layout, middle * block, chunk=chunk, dtype=dtype, block=block)
        low, high = (middle, high) if taken <= memory else (low, middle - 1)
    return low * block
