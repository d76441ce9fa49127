"""LongRoPE for vLLM: every request is served with the rope factors of its own length.

The core (this package without ``plugin`` and ``server``) needs torch only; ``hf`` adds transformers, ``plugin`` and
``server`` add vLLM.
"""

from importlib.metadata import version

from longrope_vllm.factors import Factors, Origin, Tier
from longrope_vllm.factors_file import read_factors, write_factors
from longrope_vllm.geometry import Geometry
from longrope_vllm.rope_block import read_rope_block, undo_rope, write_rope

__version__ = version("longrope-vllm")

__all__ = [
    "Factors",
    "Geometry",
    "Origin",
    "Tier",
    "__version__",
    "read_factors",
    "read_rope_block",
    "undo_rope",
    "write_factors",
    "write_rope",
]
