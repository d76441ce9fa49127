"""Write factors into a checkpoint's config.json, so that vLLM and transformers read them, or undo it.

Only config.json changes, atomically; the one from before is kept beside it as config.json.before-longrope. Converters
to GGUF take factors from Phi-3 and MiniCPM checkpoints only: see longrope doctor MODEL.
"""

import argparse
from collections.abc import Sequence

from longrope_vllm.chosen_factors import ChosenFactors, add_factor_options
from longrope_vllm.errors import LongRopeError
from longrope_vllm.geometry import read_config
from longrope_vllm.lengths import format_length
from longrope_vllm.rope_block import BACKUP_NAME, config_before, read_rope_block, undo_rope, write_rope
from longrope_vllm.rope_lint import lint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope apply``."""
    parser.add_argument("model", help="checkpoint directory")
    add_factor_options(parser)
    parser.add_argument("--undo", action="store_true", help="put the config.json from before back")


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Apply or undo; prints what changed and what other engines read differently."""
    asked = parser.parse_args(arguments)
    chosen = ChosenFactors.from_arguments(asked)
    if asked.undo == (chosen != ChosenFactors()):
        raise LongRopeError("Expected one of --factors, --preset, --tiers and --undo, found two or none.")
    if asked.undo:
        print(f"Restored {undo_rope(asked.model)}.")
        return 0
    factors = chosen.for_config(config_before(asked.model))
    assert factors is not None, "one of the options was given"
    path = write_rope(asked.model, factors)
    applied = read_rope_block(read_config(asked.model))
    assert applied is not None, "just written"
    lengths = ", ".join(format_length(tier.max_length) for tier in applied.tiers)
    print(f"Wrote {path}: tiers up to {lengths} tokens; the file from before is {BACKUP_NAME}.")
    for finding in lint(read_config(asked.model)):
        print(f"Note: {finding}.")
    return 0
