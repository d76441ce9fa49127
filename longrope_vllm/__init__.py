"""LongRoPE for vLLM: every request is served with the rope factors of its own length.

The core (this package without ``plugin`` and ``server``) needs torch only; ``hf`` adds transformers, ``plugin`` and
``server`` add vLLM. Importing the package imports none of them: a public name is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longrope_vllm.factors import Factors, Origin, Tier
    from longrope_vllm.factors_file import read_factors, write_factors
    from longrope_vllm.geometry import Geometry
    from longrope_vllm.rope_block import read_rope_block, undo_rope, write_rope

    __version__: str

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

_MODULES = {
    "Factors": "factors",
    "Geometry": "geometry",
    "Origin": "factors",
    "Tier": "factors",
    "read_factors": "factors_file",
    "read_rope_block": "rope_block",
    "undo_rope": "rope_block",
    "write_factors": "factors_file",
    "write_rope": "rope_block",
}


def __getattr__(name: str) -> Any:
    """The public name ``name``, from its module."""
    if name == "__version__":
        from importlib.metadata import version

        return version("longrope-vllm")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
