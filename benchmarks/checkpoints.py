"""Variants of the demo model (SmolLM2-135M-Instruct): its files linked, its configuration changed."""

import json
import sys
from pathlib import Path
from typing import Any

from longrope_vllm import Factors, Geometry, write_rope
from longrope_vllm.demo.model import demo_model

THIN = {"num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 192, "head_dim": 64}
"""A shape for lengths that the demo model takes minutes for; served with ``--load-format dummy``: speed, no answers."""


def variant(folder: Path, **fields: Any) -> Path:
    """The demo model in ``folder`` with ``fields`` of its configuration replaced; the weights are linked."""
    source = demo_model(lambda line: print(line, file=sys.stderr))
    folder.mkdir()
    for file in source.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def tiered(folder: Path, window: int, *lengths: int, **fields: Any) -> Path:
    """A longrope checkpoint: its own rope up to ``window`` tokens, YaRN up to each of ``lengths``."""
    variant(folder, max_position_embeddings=window, **fields)
    yarn = [(length, "yarn") for length in lengths]
    write_rope(folder, Factors.from_baselines(yarn, Geometry.from_checkpoint(folder)))
    return folder
