"""Factors shipped with the package: ``NAME.json`` in the form of ``factors_file``, each with its provenance."""

from importlib.resources import files

from longrope_vllm.errors import FactorsError
from longrope_vllm.factors import Factors
from longrope_vllm.factors_file import read_factors


def preset_path(name: str) -> str:
    """Path of the factors file of preset ``name``. Raises ``FactorsError`` for an unknown one."""
    folder = files("longrope_vllm.presets")
    known = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    if name not in known:
        raise FactorsError(f"Expected a preset out of {', '.join(known)}, found {name!r}.")
    return str(folder.joinpath(f"{name}.json"))


def load_preset(name: str) -> Factors:
    """The factors of preset ``name``."""
    return read_factors(preset_path(name))
