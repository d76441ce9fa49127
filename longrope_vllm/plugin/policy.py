"""Where a request starts: the policy of the server and what the request itself asks for.

Pure rules, evaluated once for each request, before it reaches the engine. Whatever they choose is exact: a request that
outgrows its tier moves on, and the policy only saves it the second prefill.

``prompt``: the tier of the prompt. ``prompt+max_tokens``: the tier of the longest sequence the client allows, if it
sent ``max_tokens``; a server fills that in when it is left out, and taken at its word it would always choose the
longest tier. ``explicit``: every request names its tier.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from longrope_vllm.errors import LongRopeError, RequestError
from longrope_vllm.lengths import format_length, parse_length
from longrope_vllm.plugin.tiers import ServedTiers

Policy = Literal["prompt", "prompt+max_tokens", "explicit"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

TIER_FIELD = "longrope_tier"
"""Request field: the tier to start in, by its length, as a number or like ``128k``."""
POLICY_FIELD = "longrope_policy"
"""Request field: this request's policy instead of the server's."""
MAX_TOKENS_FIELD = "longrope_max_tokens"
"""Set by the HTTP routes: ``max_tokens`` as the client sent it, 0 when it sent none."""
START_FIELD = "longrope_start"
"""What the engine reads: the request starts in the tier of a sequence of so many tokens."""


def start_length(
    served: ServedTiers, policy: Policy, *, fields: Mapping[str, Any], prompt: int, max_tokens: int | None
) -> int:
    """Length by which a request of ``prompt`` tokens gets its first tier.

    ``fields`` are the request's own, ``max_tokens`` what its client sent. Raises ``RequestError`` for a tier that is
    not in force or does not hold the prompt, and where a tier has to be named and is not.
    """
    named = named_tier(served, policy, fields)
    if named is not None:
        if prompt > named:
            raise RequestError(
                f"Expected a prompt of at most {named} tokens for {TIER_FIELD} {format_length(named)}, found {prompt}: "
                "name a longer tier."
            )
        return named
    if fields.get(POLICY_FIELD, policy) == "prompt+max_tokens" and max_tokens:
        return prompt + max_tokens - 1  # the last token is not read again
    return prompt


def named_tier(served: ServedTiers, policy: Policy, fields: Mapping[str, Any]) -> int | None:
    """Length of the tier that ``fields`` name, or None. Raises ``RequestError`` for fields that cannot be served."""
    asked = fields.get(POLICY_FIELD, policy)
    if asked not in POLICIES:
        raise RequestError(f"Expected a {POLICY_FIELD} out of {', '.join(POLICIES)}, found {asked!r}.")
    value = fields.get(TIER_FIELD)
    if value is None:
        if "explicit" in (policy, asked):
            raise RequestError(f"Expected {TIER_FIELD} in the request, found none: name one of {_lengths(served)}.")
        return None
    try:
        length = parse_length(value) if isinstance(value, str) else value
    except LongRopeError:
        length = None
    if isinstance(length, bool) or length not in [tier.max_length for tier in served.tiers]:
        raise RequestError(f"Expected {TIER_FIELD} to be a tier of this server, {_lengths(served)}, found {value!r}.")
    return int(length)


def _lengths(served: ServedTiers) -> str:
    return ", ".join(f"{tier.max_length} ({format_length(tier.max_length)})" for tier in served.tiers)
