"""Where a request starts, as rules alone: no engine."""

from types import SimpleNamespace
from typing import Any

import pytest

from longrope_vllm.errors import RequestError
from longrope_vllm.factors import Factors, Origin, Tier
from longrope_vllm.plugin.input_processor import _decide, _sent_max_tokens
from longrope_vllm.plugin.policy import MAX_TOKENS_FIELD, POLICIES, START_FIELD, Policy, start_length
from longrope_vllm.plugin.tiers import ServedTiers

SERVED = ServedTiers.from_factors(
    Factors(
        rotary_dim=4,
        base=10_000.0,
        trained_window=100,
        tiers=(
            Tier(max_length=100, factors=(1.0, 1.0)),
            Tier(max_length=1024, factors=(1.0, 4.0)),
            Tier(max_length=4096, factors=(1.0, 16.0)),
        ),
        origin=Origin(method="test"),
    ),
    4096,
)


def tier(policy: Policy = "prompt", /, *, prompt: int = 90, max_tokens: int | None = None, **fields: Any) -> int:
    named = {f"longrope_{name}": value for name, value in fields.items()}
    return SERVED.index_for(start_length(SERVED, policy, fields=named, prompt=prompt, max_tokens=max_tokens))


@pytest.mark.parametrize(("prompt", "expected"), [(1, 0), (100, 0), (101, 1), (1024, 1), (1025, 2)])
@pytest.mark.parametrize("max_tokens", [None, 1, 3000])
def test_by_prompt_the_output_does_not_count(prompt: int, expected: int, max_tokens: int | None) -> None:
    assert tier(prompt=prompt, max_tokens=max_tokens) == expected


@pytest.mark.parametrize(("max_tokens", "expected"), [(1, 0), (11, 0), (12, 1), (935, 1), (936, 2)])
def test_by_max_tokens_a_request_starts_where_its_last_token_is_read(max_tokens: int, expected: int) -> None:
    # 90 + 11 tokens: the last one is never read, so 100 positions are enough.
    assert tier("prompt+max_tokens", max_tokens=max_tokens) == expected


def test_without_max_tokens_a_request_starts_short_under_every_policy() -> None:
    assert tier("prompt+max_tokens", max_tokens=None) == 0


@pytest.mark.parametrize("room", [4006, 10])
def test_a_server_that_filled_in_the_rest_of_the_window_is_no_wish_of_the_client(room: int) -> None:
    # vLLM sets max_tokens to what is left when a client omits it: taken at its word every request would be long.
    assert _sent_max_tokens({}, room, room) is None
    assert _sent_max_tokens({}, room - 1, room) == room - 1
    assert _sent_max_tokens({}, None, room) is None


def test_the_routes_know_what_was_sent() -> None:
    assert _sent_max_tokens({MAX_TOKENS_FIELD: 0}, 12, 4000) is None
    assert _sent_max_tokens({MAX_TOKENS_FIELD: 4000}, 4000, 4000) == 4000


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("named", "expected"), [(100, 0), (1024, 1), ("1k", 1), ("4k", 2), ("4,096", 2)])
def test_a_request_may_name_its_tier_under_every_policy(policy: Policy, named: Any, expected: int) -> None:
    assert tier(policy, tier=named, max_tokens=3000) == expected


@pytest.mark.parametrize("named", ["2k", 99, 0, -1, "long", True, 1024.5, ["1k"], {}])
def test_a_tier_that_is_not_in_force_is_refused_with_those_that_are(named: Any) -> None:
    with pytest.raises(RequestError, match=r"100 \(100\), 1024 \(1k\), 4096 \(4k\), found"):
        tier(tier=named)


def test_a_tier_shorter_than_the_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="at most 1024 tokens for longrope_tier 1k, found 1025"):
        tier(tier="1k", prompt=1025)


def test_a_server_with_explicit_tiers_refuses_a_request_without_one() -> None:
    for fields in ({}, {"policy": "prompt"}):
        with pytest.raises(RequestError, match="Expected longrope_tier in the request, found none"):
            tier("explicit", **fields)


def test_a_request_may_choose_another_policy() -> None:
    assert tier("prompt", policy="prompt+max_tokens", max_tokens=100) == 1
    assert tier("prompt+max_tokens", policy="prompt", max_tokens=100) == 0
    with pytest.raises(RequestError, match="found 'always long'"):
        tier(policy="always long")


@pytest.mark.parametrize("forged", [4096, "4096", ["x"], -5, None])
@pytest.mark.parametrize(("asked", "start"), [({}, None), ({"longrope_tier": 1024}, 1024)])
def test_where_a_request_starts_is_never_what_a_client_wrote_into_our_own_field(
    forged: Any, asked: dict[str, Any], start: int | None
) -> None:
    processor = SimpleNamespace(
        vllm_config=SimpleNamespace(model_config=SimpleNamespace(max_model_len=4096), additional_config={}),
        longrope_tiers=SERVED,
    )
    params = SimpleNamespace(extra_args={START_FIELD: forged, "another": 1, **asked})
    request = SimpleNamespace(prompt_token_ids=[1] * 10, prompt_embeds=None, sampling_params=params)
    _decide(processor, request, 16)
    assert params.extra_args == {"another": 1, **asked, **({} if start is None else {START_FIELD: start})}
