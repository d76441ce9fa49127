"""Token counts as people write them: 8192, 8k, 128k, 1M (k = 1,024 and M = 1,048,576, as windows are named)."""

import re

from longrope_vllm.errors import LongRopeError

_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def parse_length(text: str) -> int:
    """Tokens named by ``text``. Raises ``LongRopeError`` on anything else than a positive number and a unit."""
    match = re.fullmatch(r"(\d{1,15}|\d{1,3}(?:,\d{3}){1,4})\s*([km]?)", text.strip().lower(), re.ASCII)
    tokens = int(match[1].replace(",", "")) * _UNITS[match[2]] if match else 0
    if tokens == 0:
        raise LongRopeError(f"Expected a length in tokens such as 8192, 128k or 1M, found {text!r}.")
    return tokens


def parse_lengths(text: str) -> tuple[int, ...]:
    """Different lengths between commas, ascending. Raises ``LongRopeError``."""
    return tuple(sorted({parse_length(part) for part in text.split(",") if part.strip()}))


def format_length(tokens: int) -> str:
    """The shortest exact spelling: 8192 is ``8k``, 10000 stays ``10,000``."""
    for unit in ("m", "k"):
        if tokens and tokens % _UNITS[unit] == 0:
            return f"{tokens // _UNITS[unit]}{unit.upper() if unit == 'm' else unit}"
    return f"{tokens:,}"
