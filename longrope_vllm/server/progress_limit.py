"""How long an engine that has work may stand still: the option of ``longrope serve``.

It travels as an attribute of vLLM's argument namespace.
"""

import argparse

from longrope_vllm.errors import UnsupportedError

ATTRIBUTE = "longrope_progress_limit"
"""Of vLLM's argument namespace: the limit in seconds."""
LIMIT = 300.0
"""Seconds, unless the option says another number: one step may take minutes at a huge context."""

_LEAST = 15.0


def add_progress_option(parser: argparse.ArgumentParser) -> None:
    """The option by which ``/health/progress`` is set."""
    parser.add_argument(
        "--progress-limit",
        type=float,
        metavar="SECONDS",
        default=LIMIT,
        help=f"/health/progress fails when the engine has work and has not moved for so long (default {LIMIT:.0f})",
    )


def checked(seconds: float) -> float:
    """``seconds``; raises ``UnsupportedError`` for less than what a healthy engine needs now and then."""
    if not seconds >= _LEAST:
        raise UnsupportedError(f"Expected --progress-limit of at least {_LEAST:.0f} seconds, found {seconds:g}.")
    return seconds
