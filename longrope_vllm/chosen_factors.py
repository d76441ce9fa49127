"""The factors a user names on the command line: a file, factors of the package, or a method for each length.

One form for every command that takes factors: ``--factors FILE``, ``--preset NAME`` or ``--tiers 32k:yarn,128k:yarn``.
"""

import argparse
from dataclasses import dataclass

from longrope_vllm.errors import FactorsError
from longrope_vllm.factors import OWN, Factors
from longrope_vllm.factors_file import read_factors
from longrope_vllm.geometry import Config, Geometry, text_config
from longrope_vllm.lengths import parse_length
from longrope_vllm.presets import load_preset, preset_names
from longrope_vllm.rope import BASELINES
from longrope_vllm.rope_block import TIERS_KEY


@dataclass(frozen=True, kw_only=True)
class ChosenFactors:
    """What was named; nothing means the checkpoint's own tiers."""

    file: str | None = None
    """Path of a ``factors.json``."""
    preset: str | None = None
    """Factors that the package brings, by name."""
    methods: str | None = None
    """Methods by length, as ``parse_tiers`` reads them."""

    @classmethod
    def from_arguments(cls, asked: argparse.Namespace) -> "ChosenFactors":
        """From the options that ``add_factor_options`` added. Raises ``FactorsError`` for several at once."""
        chosen = cls(file=asked.factors, preset=asked.preset, methods=asked.tiers)
        if len(named := chosen.as_options()[::2]) > 1:
            raise FactorsError(f"Expected one of --factors, --preset and --tiers, found {' and '.join(named)}.")
        return chosen

    def as_options(self) -> tuple[str, ...]:
        """The options that name the same, such as ``("--tiers", "32k:yarn")``."""
        given = {"--factors": self.file, "--preset": self.preset, "--tiers": self.methods}
        return tuple(word for name, value in given.items() if value is not None for word in (name, value))

    def for_config(self, config: Config) -> Factors | None:
        """The factors for a checkpoint, or None when nothing was named. Raises ``FactorsError``."""
        if self.file is not None:
            return read_factors(self.file)
        if self.preset is not None:
            return load_preset(self.preset)
        if self.methods is None:
            return None
        if text_config(config).get(TIERS_KEY) is not None:
            raise FactorsError(
                f"Expected a checkpoint as it was trained for --tiers, found {TIERS_KEY} in its config.json: take them "
                "back with longrope apply --undo, or write the tiers to a factors file."
            )
        return Factors.from_baselines(parse_tiers(self.methods), Geometry.from_config(config))


def add_factor_options(parser: argparse.ArgumentParser) -> None:
    """``--factors``, ``--preset`` and ``--tiers``."""
    parser.add_argument("--factors", metavar="FILE", help="factors.json")
    parser.add_argument("--preset", metavar="NAME", help=f"factors of this package: {', '.join(preset_names())}")
    parser.add_argument(
        "--tiers",
        metavar="LENGTH:METHOD,...",
        help=f"closed forms in place of a file, such as 32k:yarn,128k:yarn; methods: {OWN}, {', '.join(BASELINES)}",
    )


def parse_tiers(text: str) -> list[tuple[int, str]]:
    """``32768:yarn,128k:yarn`` as (length, method). Raises ``FactorsError`` for another form."""
    parts = [part.strip().partition(":") for part in text.split(",")]
    if not all(length and method for length, _, method in parts):
        raise FactorsError(f"Expected --tiers LENGTH:METHOD,..., such as 32k:yarn,128k:yarn, found {text!r}.")
    return [(parse_length(length), method.strip()) for length, _, method in parts]
