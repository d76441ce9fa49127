"""Sizes and times as people write them: 512MB, 8GB, 30d, 12h, never."""

import re
from collections.abc import Mapping

from longrope_vllm.errors import LongRopeError

_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_size(text: str, *, option: str) -> int:
    """Bytes named by ``text``, for the command-line ``option``. Raises ``LongRopeError``."""
    return _parse(text, _SIZES, f"Expected {option} to be a size such as 512MB or 8GB, found {text!r}.")


def parse_seconds(text: str, *, option: str) -> int | None:
    """Seconds named by ``text``, None for ``never``. Raises ``LongRopeError``."""
    if text.strip().lower() == "never":
        return None
    return _parse(text, _SECONDS, f"Expected {option} to be a time such as 30d or 12h, or never, found {text!r}.")


def format_size(size: int) -> str:
    """``size`` bytes in the largest unit that says them exactly: ``512 MB``, ``1,234 bytes``."""
    for unit in ("TB", "GB", "MB", "kB"):
        if size and size % _SIZES[unit.lower()] == 0:
            return f"{size // _SIZES[unit.lower()]:,} {unit}"
    return f"{size:,} bytes"


def format_seconds(seconds: int | None) -> str:
    """The shortest exact spelling: ``30d``, ``90m``, ``never``."""
    if seconds is None:
        return "never"
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def _parse(text: str, units: Mapping[str, int], refusal: str) -> int:
    match = re.fullmatch(r"(\d{1,15})\s*([a-z]*)", text.strip().lower(), re.ASCII)
    amount = int(match[1]) * units.get(match[2], 0) if match else 0
    if amount == 0:
        raise LongRopeError(refusal)
    return amount
