"""All knowledge about vLLM versions.

The range is stated once, as the ``gpu`` extra of the project; ``SUPPORTED`` repeats it for a running process and a
test holds the two equal.
"""

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from longrope_vllm.errors import UnsupportedError

SUPPORTED = SpecifierSet(">=0.25.1,<0.34")

STOCK_LONGROPE = "Phi3LongRoPEScaledRotaryEmbedding"
"""Name under which ``get_rope`` looks the class for longrope up in its package, when it is called."""


def vllm_version() -> str:
    """Version of the vLLM in this process (by the module: the CPU and GPU distributions have different names)."""
    import vllm

    return str(vllm.__version__)


def is_supported(version: str) -> bool:
    """True for a version in ``SUPPORTED``; local and development suffixes do not matter.

    A vLLM that was built without knowing its version calls itself ``dev``: which one it is nobody can tell.
    """
    try:
        return SUPPORTED.contains(Version(version).base_version, prereleases=True)
    except InvalidVersion:
        return False


def refusal(version: str) -> str:
    """The sentence for a vLLM that is out of range."""
    return (
        f"longrope-vllm serves longrope checkpoints on vLLM {SUPPORTED}, found {version}: install a vLLM in that range "
        "or a longrope-vllm that knows this one."
    )


def check_own_rope(rope_type: str, rope: Mapping[str, Any]) -> None:
    """Raise ``UnsupportedError`` when this vLLM ignores a field of a YaRN block and serves another rope than stated.

    Versions before 0.32 do (seen in 0.25.1). Remove when the range begins with one that reads them.
    """
    if rope_type != "yarn":
        return
    from vllm.model_executor.layers.rotary_embedding.yarn_scaling_rope import YaRNScalingRotaryEmbedding

    read = inspect.signature(YaRNScalingRotaryEmbedding.__init__).parameters
    ignored = [name for name in ("attention_factor", "mscale", "mscale_all_dim") if name in rope and name not in read]
    if ignored:
        raise UnsupportedError(
            f"Expected a vLLM that reads {', '.join(ignored)} of the checkpoint's yarn rope, found {vllm_version()}, "
            "which does not: install a newer one."
        )


def refuse_longrope(rotary_embedding: ModuleType) -> None:
    """Make a longrope checkpoint fail with the sentence of ``refusal``; every other model is served as without us."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(refusal(vllm_version()))

    setattr(rotary_embedding, STOCK_LONGROPE, refuse)
