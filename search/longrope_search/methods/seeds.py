"""Where a search begins: PI, NTK-aware and YaRN (LongRoPE, arXiv 2402.13753, algorithm 1), as points of its space.

YaRN mixes frequencies, not factors: ``1 / lambda`` is what is interpolated (arXiv 2309.00071, section 3.2).
"""

from dataclasses import replace

import numpy as np

from longrope_search.space import Point, Space
from longrope_vllm.factors import Tier
from longrope_vllm.geometry import Geometry
from longrope_vllm.rope import BASELINES

SEEDS = ("pi", "ntk", "yarn")

_STEEPEST = 4.0  # power by which a shorter length's factors are stretched: those just above the window say little


def seeds(space: Space, geometry: Geometry) -> list[Point]:
    """The closed forms at the space's scale, projected into it.

    In ``longrope2`` factors below a critical pair follow from it: one seed for each critical pair, with ``s`` above.
    """
    if space.name == "longrope2":
        return [
            space.projected(
                Point(
                    factors=np.full(space.pairs, space.scale),
                    pivot=pivot,
                    attention_factor=space.attention_factor,
                    origin=f"critical pair {pivot}",
                )
            )
            for pivot in space.pivots
        ]
    window = replace(geometry, trained_window=space.footing.max_length)
    found = [
        space.projected(
            Point(
                factors=BASELINES[name](window, space.scale).factors.numpy(),
                attention_factor=space.attention_factor,
                origin=name,
            )
        )
        for name in SEEDS
    ]
    return list({tuple(point.factors): point for point in reversed(found)}.values())[::-1]  # at scale 1 all are one


def from_shorter(found: Point, space: Space, shorter: Space) -> Point:
    """What was found for a shorter length, stretched to the scale of ``space``: ``lambda ** (log s' / log s)``.

    What was found at scale 1 is taken as it is: there is nothing to stretch it by.
    """
    exponent = min(_STEEPEST, np.log(space.scale) / np.log(shorter.scale)) if shorter.scale > 1.0 else 1.0
    stretched = replace(
        found,
        factors=found.factors**exponent,
        attention_factor=space.attention_factor,
        origin="shorter tier",
    )
    return space.projected(stretched)


def from_tuned(tier: Tier, space: Space) -> Point:
    """The factors a model was fine-tuned with, shrunk until the largest is that of ``space``."""
    logs = np.log(np.asarray(tier.factors) / np.asarray(space.footing.factors))
    exponent = np.log(space.largest) / max(logs.max(), 1e-9)
    return space.projected(
        Point(
            factors=np.exp(logs * min(1.0, exponent)),
            attention_factor=tier.attention_factor,
            origin="fine-tuned",
        )
    )
