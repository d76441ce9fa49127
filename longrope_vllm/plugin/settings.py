"""Our settings of one server, in vLLM's ``additional_config``: ``{"longrope": {"policy": ..., "angles": ...}}``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.policy import POLICIES, Policy
from longrope_vllm.tier_table import ANGLES, Angles

CONFIG = "longrope"
"""Key of our settings in ``additional_config``."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server may choose beside its tiers."""

    policy: Policy = "prompt"
    angles: Angles = "exact"


_CHOICES = {"policy": POLICIES, "angles": ANGLES}


def server_settings(vllm_config: Any) -> Settings:
    """The settings in ``additional_config``. Raises ``UnsupportedError`` for anything unknown."""
    additional = vllm_config.additional_config
    stated = additional.get(CONFIG, {}) if isinstance(additional, Mapping) else {}
    known = [field.name for field in fields(Settings)]
    if not isinstance(stated, Mapping) or set(stated) - set(known):
        raise UnsupportedError(
            f"Expected {CONFIG} in additional_config to hold {' and '.join(known)} only, found {stated!r}."
        )
    for name, value in stated.items():
        if value not in _CHOICES[name]:
            raise UnsupportedError(
                f"Expected {name} out of {', '.join(_CHOICES[name])} in additional_config, found {value!r}."
            )
    return Settings(**stated)
