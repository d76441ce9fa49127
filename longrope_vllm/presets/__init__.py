"""Factors shipped with the package: ``NAME.json`` in the form of ``factors_file``, each with its provenance."""

from importlib.resources import files

from longrope_vllm.errors import FactorsError
from longrope_vllm.factors import Factors
from longrope_vllm.factors_file import read_factors


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    entries = files("longrope_vllm.presets").iterdir()
    return sorted(entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json"))


def preset_path(name: str) -> str:
    """Path of the factors file of preset ``name``. Raises ``FactorsError`` for an unknown one."""
    if name not in (known := preset_names()):
        raise FactorsError(f"Expected a preset out of {', '.join(known)}, found {name!r}.")
    return str(files("longrope_vllm.presets").joinpath(f"{name}.json"))


def load_preset(name: str) -> Factors:
    """The factors of preset ``name``."""
    return read_factors(preset_path(name))
