"""Which lengths can be tested: the tiers in force, cut at the longest prompt that is allowed. All in tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

ANSWER = 16
"""Tokens generated where nothing else decides it."""
ROOM = 2 * ANSWER
"""A tier of which less than this may be tested is left out."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The sequences of one tier: longer than ``lower``, up to ``max_length``, tested up to ``top``."""

    lower: int
    max_length: int
    top: int

    def length(self, share: float, *, at_most: int) -> int:
        """A prompt ``share`` of the way through this tier, at most ``at_most`` above its lower end, with an answer."""
        room = self.top - ANSWER - self.lower
        return self.lower + max(1, min(round(room * share), at_most))


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The end of one tier and the beginning of the next."""

    shorter: Extent
    longer: Extent

    @property
    def at(self) -> int:
        """Longest sequence of the shorter tier."""
        return self.shorter.max_length


def extents(max_lengths: Sequence[int], limit: int) -> tuple[Extent, ...]:
    """The tiers of ``max_lengths`` that can be tested with at most ``limit`` tokens; the shortest one always is."""
    lowers = (0, *max_lengths)
    tiers = [
        Extent(lower=lower, max_length=length, top=min(length, limit))
        for lower, length in zip(lowers, max_lengths, strict=False)
    ]
    return tuple(tier for index, tier in enumerate(tiers) if index == 0 or tier.top - tier.lower >= ROOM)


def boundaries(tiers: Sequence[Extent]) -> tuple[Boundary, ...]:
    """Between each two tiers that can be tested and follow each other."""
    return tuple(
        Boundary(shorter=shorter, longer=longer)
        for shorter, longer in pairwise(tiers)
        if longer.lower == shorter.max_length
    )
