"""All knowledge about vLLM versions.

The range is stated once, as the ``gpu`` extra of the project; ``SUPPORTED`` repeats it for a running process and a
test holds the two equal.
"""

from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from longrope_vllm.errors import UnsupportedError

SUPPORTED = SpecifierSet(">=0.25.1,<0.34")

STOCK_LONGROPE = "Phi3LongRoPEScaledRotaryEmbedding"
"""Name under which ``get_rope`` looks the class for longrope up in its package, when it is called."""


def vllm_version() -> str:
    """Version of the vLLM in this process (by the module: the CPU and GPU distributions have different names)."""
    import vllm

    return str(vllm.__version__)


def is_supported(version: str) -> bool:
    """True for a version in ``SUPPORTED``; local and development suffixes do not matter."""
    return SUPPORTED.contains(Version(version).base_version, prereleases=True)


def refusal(version: str) -> str:
    """The sentence for a vLLM that is out of range."""
    return (
        f"longrope-vllm serves longrope checkpoints on vLLM {SUPPORTED}, found {version}: install a vLLM in that range "
        "or a longrope-vllm that knows this one."
    )


def install_refusal() -> None:
    """Make a longrope checkpoint fail with the sentence of ``refusal``; every other model is served as without us."""
    try:
        from vllm.model_executor.layers import rotary_embedding
    except ImportError:
        return  # a vLLM so different that it has no such class to replace

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(refusal(vllm_version()))

    setattr(rotary_embedding, STOCK_LONGROPE, refuse)
