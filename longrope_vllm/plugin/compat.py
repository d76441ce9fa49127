"""All knowledge about vLLM versions.

The range is stated once, as the ``gpu`` extra of the project; ``SUPPORTED`` repeats it for a running process and a
test holds the two equal.
"""

from packaging.specifiers import SpecifierSet
from packaging.version import Version

SUPPORTED = SpecifierSet(">=0.25.1,<0.34")


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
