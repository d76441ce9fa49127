"""Our settings of one server, in vLLM's ``additional_config``: ``{"longrope": {"policy": ..., "lanes": ...}}``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.policy import POLICIES, Policy
from longrope_vllm.tier_table import ANGLES, Angles

CONFIG = "longrope"
"""Key of our settings in ``additional_config``."""

Lanes = Literal["on", "off"]
LANES: tuple[Lanes, ...] = ("on", "off")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server may choose beside its tiers."""

    policy: Policy = "prompt"
    angles: Angles = "exact"
    lanes: Lanes = "on"
    short_wait: float = 0.1
    """Seconds that a short request may wait for steps of a long prefill that are under way."""


_CHOICES = {"policy": POLICIES, "angles": ANGLES, "lanes": LANES}


def server_settings(vllm_config: Any) -> Settings:
    """The settings in ``additional_config``. Raises ``UnsupportedError`` for anything unknown."""
    additional = vllm_config.additional_config
    stated = additional.get(CONFIG, {}) if isinstance(additional, Mapping) else {}
    known = [field.name for field in fields(Settings)]
    if not isinstance(stated, Mapping) or set(stated) - set(known):
        raise UnsupportedError(
            f"Expected {CONFIG} in additional_config to hold {' and '.join(known)} only, found {stated!r}."
        )
    for name, choices in _CHOICES.items():
        if name in stated and stated[name] not in choices:
            raise UnsupportedError(
                f"Expected {name} out of {', '.join(choices)} in additional_config, found {stated[name]!r}."
            )
    wait = stated.get("short_wait", Settings.short_wait)
    if not isinstance(wait, int | float) or not 0 < wait < float("inf"):
        raise UnsupportedError(f"Expected short_wait in seconds above 0 in additional_config, found {wait!r}.")
    return Settings(**stated)
