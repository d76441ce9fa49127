"""What a model knows before a search: the rope that found factors multiply, and the tiers that stay as they are.

A pretrained model knows its own rope up to its window. One that was fine-tuned with factors, named with ``--from`` or
stated in its rope block, knows the longest of those tiers (LongRoPE, arXiv 2402.13753, section 3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from longrope_search.request import Request
from longrope_vllm.errors import SearchError
from longrope_vllm.factors import Factors, Origin, Tier, own_tier
from longrope_vllm.factors_file import read_factors
from longrope_vllm.geometry import Geometry, read_config, text_config
from longrope_vllm.rope_block import check_fits, read_rope_block


@dataclass(frozen=True, kw_only=True)
class Footing:
    """Where a search stands."""

    geometry: Geometry
    """The rope that factors are relative to; of a longrope checkpoint the one below its block."""
    own: Tier
    """The rope of the pretrained model."""
    tuned: Factors | None
    """Tiers that the model was fine-tuned with, if any."""

    def tier(self, length: int) -> Tier:
        """What factors for ``length`` multiply: the longest that the model knows below it, else its own rope."""
        known = [tier for tier in (self.tuned.tiers if self.tuned else ()) if tier.max_length < length]
        return max([self.own, *known], key=lambda tier: tier.max_length)

    def with_tiers(self, found: Sequence[Tier], origin: Origin) -> Factors:
        """The file: ``found``, and of the tiers that were there before those of other lengths."""
        lengths = {tier.max_length for tier in found}
        before = self.tuned.tiers if self.tuned else ()
        kept = [tier for tier in before if tier.max_length not in lengths]
        return Factors(
            rotary_dim=self.geometry.rotary_dim,
            base=self.geometry.base,
            trained_window=self.geometry.trained_window,
            tiers=tuple(sorted([*kept, *found], key=lambda tier: tier.max_length)),
            origin=origin,
            rope_type=self.geometry.rope_type,
            rope=self.geometry.rope,
        ).with_own_tier(self.own)


def footing(request: Request) -> Footing:
    """Read the checkpoint and ``--from``. Raises ``LongRopeError``."""
    config = text_config(read_config(request.model))
    stated = read_rope_block(config)
    tuned = stated
    if request.footing is not None:
        tuned = read_factors(request.footing)
        check_fits(config, tuned)
    geometry = stated.geometry if stated is not None else Geometry.from_config(config)
    own = own_tier(geometry) if stated is None else check_fits(config, stated)
    found = Footing(geometry=geometry, own=own, tuned=tuned)
    known = tuned.max_length if tuned is not None else own.max_length
    if request.kind == "short":
        _check_short(request, found)
    elif request.lengths[0] <= known:
        raise SearchError(
            f"Expected targets above the {known:,} tokens that this model knows, found {request.lengths[0]:,}: for a "
            "fine-tuned model longrope search short finds the factors of shorter sequences."
        )
    return found


def _check_short(request: Request, found: Footing) -> None:
    if found.tuned is None:
        raise SearchError(
            "Expected a model that was fine-tuned for longer sequences, found one with its own rope alone, which "
            "needs nothing at short lengths: name the factors it was fine-tuned with by --from."
        )
    if request.lengths[-1] >= found.tuned.max_length:
        raise SearchError(
            f"Expected short lengths below the {found.tuned.max_length:,} tokens of the longest tier, found "
            f"{request.lengths[-1]:,}: longer ones are what longrope search finds."
        )
