"""Ids of requests inside the engine against the ids in responses."""

import pytest

from longrope_vllm.plugin.status import KEPT, RequestStatus, ServedRequests, response_ids


@pytest.mark.parametrize(
    ("engine_id", "response_id"),
    [
        ("chatcmpl-12ab", "chatcmpl-12ab"),
        ("chatcmpl-12ab-0f3c9d1e", "chatcmpl-12ab"),
        ("1_chatcmpl-12ab-0f3c9d1e", "chatcmpl-12ab"),
        ("cmpl-12ab-0", "cmpl-12ab"),
        ("cmpl-12ab-2-0f3c9d1e", "cmpl-12ab"),
        ("1_cmpl-job-1-2-0f3c9d1e", "cmpl-job-1"),
        ("resp_12ab_0-0f3c9d1e", "resp_12ab"),
    ],
)
def test_ids_that_vllm_makes_of_a_response_id_are_recognised(engine_id: str, response_id: str) -> None:
    assert response_id in response_ids(engine_id)


@pytest.mark.parametrize(
    "engine_id",
    ["chatcmpl-12ab-b-0f3c9d1e", "chatcmpl-12abc", "chatcmpl-12", "xchatcmpl-12ab", "chatcmpl-12ab-1-0f3c9d1e"],
)
def test_an_id_that_only_begins_alike_belongs_to_somebody_else(engine_id: str) -> None:
    assert "chatcmpl-12ab" not in response_ids(engine_id)


def test_the_oldest_finished_requests_are_forgotten() -> None:
    served = ServedRequests()
    for number in range(KEPT + 1):
        served.add(f"r{number}x", RequestStatus(tier=0, tier_max_length=8, tokens=number, crossings=0))
    assert served.find("r0x") is None
    newest = served.find(f"r{KEPT}x")
    assert newest is not None
    assert newest.tokens == KEPT


def test_several_sequences_of_one_response_are_told_together() -> None:
    served = ServedRequests()
    short = RequestStatus(tier=0, tier_max_length=8, tokens=7, crossings=0)
    crossed = RequestStatus(tier=1, tier_max_length=64, tokens=20, crossings=1, reprefilled_tokens=8)
    for name, status in {"0_cmpl-1-0-0f3c9d1e": short, "1_cmpl-1-0-0f3c9d1e": crossed, "cmpl-2": short}.items():
        served.add(name, status)
    assert served.find("cmpl-1") == RequestStatus(
        tier=1, tier_max_length=64, tokens=27, crossings=1, reprefilled_tokens=8
    )
    assert served.find("cmpl-2") == short


def test_a_request_told_twice_counts_once() -> None:
    served = ServedRequests()
    for tokens in (3, 9):
        served.add("cmpl-1", RequestStatus(tier=0, tier_max_length=8, tokens=tokens, crossings=0))
    found = served.find("cmpl-1")
    assert found is not None
    assert found.tokens == 9
