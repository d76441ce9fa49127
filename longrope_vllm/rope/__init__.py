"""The rope maths: pure functions on torch tensors, without vLLM and without transformers.

Legend used in every shape here: ``P`` rotary pairs (rotary dimensions / 2), ``N`` positions, ``T`` tokens,
``H`` heads, ``D`` head size.
"""

from longrope_vllm.rope.attention_factor import longrope_attention_factor, yarn_attention_factor
from longrope_vllm.rope.baselines import BASELINES, Baseline
from longrope_vllm.rope.frequencies import (
    critical_pair,
    inverse_frequencies,
    rescaled_inverse_frequencies,
    wavelengths,
)
from longrope_vllm.rope.own import own_length, own_rope
from longrope_vllm.rope.rope_table import BLOCK, RopeTable, blocks_of
from longrope_vllm.rope.rotary import apply_rotary
from longrope_vllm.rope.tables import cos_sin_rows, reference_rows

__all__ = [
    "BASELINES",
    "BLOCK",
    "Baseline",
    "RopeTable",
    "apply_rotary",
    "blocks_of",
    "cos_sin_rows",
    "critical_pair",
    "inverse_frequencies",
    "longrope_attention_factor",
    "own_length",
    "own_rope",
    "reference_rows",
    "rescaled_inverse_frequencies",
    "wavelengths",
    "yarn_attention_factor",
]
