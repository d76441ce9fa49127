"""Random tiers, engines and requests, all drawn from the seed that a failing test prints.

Requests are drawn where serving goes wrong: prompts that end at a boundary between tiers or next to it, answers that
cross none, one or two of them, prefixes shared within a tier and between tiers up to any token, random arrivals.
"""

import random
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from longrope_vllm import Factors, Geometry, Origin, Tier
from tiny_models import VOCABULARY, WINDOW

BLOCK = 32
"""KV block of these engines in tokens, the smallest of the CPU: short prefixes are shared as well."""
FARTHEST_CROSSING = 90
"""An answer is made long enough for a boundary if that takes at most so many tokens."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One engine with its requests."""

    seed: str
    factors: Factors
    engine: dict[str, Any]
    requests: list[dict[str, Any]]

    @property
    def boundaries(self) -> list[int]:
        """Longest sequence of each tier in force, in tokens."""
        longest: int = self.engine["max_model_len"]
        return [tier.max_length for tier in self.factors.tiers if tier.max_length < longest] + [longest]


def expected_status(entry: dict[str, Any], boundaries: list[int]) -> dict[str, int]:
    """What the server has to say of a request that was answered in full: a rule of lengths, whatever happened to it."""
    tokens = len(entry["prompt"]) + entry["max_tokens"]
    first, last = (
        bisect_left(boundaries, max(length, entry["start"])) for length in (len(entry["prompt"]), tokens - 1)
    )
    return {"tier": last, "tier_max_length": boundaries[last], "tokens": tokens, "crossings": last - first}


def random_factors(rng: random.Random, geometry: Geometry) -> Factors:
    """A plain tier and three random ones, two of them so close that one answer crosses both boundaries."""
    near = WINDOW + rng.randint(16, 60)
    ends = [near, rng.randint(500, 640), rng.randint(800, 1000)]
    if rng.random() < 0.5:
        ends = [near, near + rng.randint(16, 60), rng.randint(700, 1000)]
    plain = Tier(max_length=geometry.trained_window, factors=(1.0,) * geometry.pairs)
    return Factors(
        rotary_dim=geometry.rotary_dim,
        base=geometry.base,
        trained_window=geometry.trained_window,
        tiers=(plain, *(_random_tier(rng, geometry, end) for end in ends)),
        origin=Origin(method="test"),
    )


def _random_tier(rng: random.Random, geometry: Geometry, max_length: int) -> Tier:
    return Tier(
        max_length=max_length,
        factors=tuple(rng.uniform(1.0, 8.0) for _ in range(geometry.pairs)),
        attention_factor=rng.choice([1.0, rng.uniform(0.8, 1.3)]),
        start_tokens=rng.choice([0, 0, 1, rng.randint(2, WINDOW)]),
    )


def random_scenario(seed: str, geometry: Geometry, *, requests: int) -> Scenario:
    """An engine with room for everything; its chunks, its batch and its length are drawn."""
    rng = random.Random(seed)
    factors = random_factors(rng, geometry)
    longest = factors.max_length - rng.choice([0, rng.randint(1, 60)])
    engine = {
        "max_model_len": longest,
        "block_size": BLOCK,
        "max_num_batched_tokens": rng.randint(24, 400),
        "max_num_seqs": rng.randint(3, 12),
        "enable_prefix_caching": True,
    }
    ends = [tier.max_length for tier in factors.tiers if tier.max_length < longest]
    drawn = random_requests(rng, ends, longest, count=requests, within=2 * requests, answer=8, small=0.25)
    return Scenario(seed=seed, factors=factors, engine=engine, requests=drawn)


def random_soak(seed: str, geometry: Geometry, *, requests: int) -> Scenario:
    """A long mix in a cache so small that running requests lose their blocks, every third one aborted somewhere."""
    rng = random.Random(seed)
    factors = random_factors(rng, geometry)
    engine = {
        "max_model_len": factors.max_length,
        "block_size": BLOCK,
        "max_num_batched_tokens": 128,
        "max_num_seqs": 16,
        "enable_prefix_caching": True,
        "num_gpu_blocks_override": factors.max_length // BLOCK + 9,
    }
    boundaries = [tier.max_length for tier in factors.tiers]
    drawn = [
        entry | {"priority": rng.randint(0, 2)}
        for entry in random_requests(
            rng, boundaries[:-1], boundaries[-1], count=requests, within=requests, answer=90, small=0.7
        )
    ]
    mixed = [entry if rng.random() < 0.65 else _with_random_abort(rng, entry, boundaries) for entry in drawn]
    return Scenario(seed=seed, factors=factors, engine=engine, requests=mixed)


def _with_random_abort(rng: random.Random, entry: dict[str, Any], boundaries: list[int]) -> dict[str, Any]:
    phases = ["waiting", "prefilling", "decoding", "preempted"]
    if expected_status(entry, boundaries)["crossings"]:
        phases = ["crossing", "prefilling again", "preempted"]
    phase = rng.choice(phases)
    patience = rng.choice([0, 0, 1, rng.randint(2, 10)]) if phase in ("waiting", "decoding") else 0
    return entry | {"abort": {"phase": phase, "patience": patience, "midstep": rng.random() < 0.5}}


def random_requests(
    rng: random.Random, ends: list[int], longest: int, *, count: int, within: int, answer: int, small: float
) -> list[dict[str, Any]]:
    """``count`` requests around the boundaries ``ends``, of at most ``longest`` tokens with their answers.

    They arrive ``within`` so many steps. ``answer`` is the most tokens of output beyond what a boundary takes,
    ``small`` the share of prompts of one or two blocks.
    """
    documents = [_random_tokens(rng, longest) for _ in range(3)]
    return [
        _random_request(rng, ends, longest, documents, answer=answer, small=small)
        | {"id": f"r{number}", "arrive": rng.randint(0, within)}
        for number in range(count)
    ]


def _random_request(
    rng: random.Random, ends: list[int], longest: int, documents: list[list[int]], *, answer: int, small: float
) -> dict[str, Any]:
    at_a_boundary = rng.choice(ends) + rng.randint(-16, 2)
    if rng.random() < small:
        length = rng.randint(1, 2 * BLOCK)
    else:
        length = min(rng.choice([at_a_boundary, at_a_boundary, rng.randint(1, longest)]), longest - 1)
    to_cross = [end - length for end in ends if 0 <= end - length <= FARTHEST_CROSSING]
    output = min(rng.choice([0, *to_cross, *to_cross[-1:]]) + rng.randint(1, answer), longest - length)
    shared = rng.choice([0, rng.randint(0, length), length - length % BLOCK, length])
    tokens = rng.choice(documents)[:shared] + _random_tokens(rng, length - shared)
    start, fields = _random_start(rng, [*ends, longest], length, output)
    drawn = {"prompt": tokens, "max_tokens": output, "start": start, "fields": fields}
    return drawn if rng.random() < 0.8 else drawn | {"salt": rng.choice(["tenant a", "tenant b"])}


def _random_start(rng: random.Random, ends: list[int], length: int, output: int) -> tuple[int, dict[str, Any]]:
    """The length by which a request gets its first tier, and the fields by which its client asks for that."""
    wish = rng.random()
    if wish < 0.1:
        named = rng.choice([end for end in ends if length <= end])
        return named, {"longrope_tier": named}
    if wish < 0.2 and length + output < ends[-1]:  # all the room there is counts as not sent
        return length + output - 1, {"longrope_policy": "prompt+max_tokens"}
    return length, {}


def _random_tokens(rng: random.Random, count: int) -> list[int]:
    return rng.choices(range(3, VOCABULARY), k=count)
