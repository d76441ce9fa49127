"""Ids of requests inside the engine against the ids in responses."""

import pytest

from longrope_vllm.plugin.status import KEPT, RequestStatus, ServedRequests, same_request


@pytest.mark.parametrize(
    "engine_id",
    [
        "chatcmpl-12ab",
        "chatcmpl-12ab-0f3c9d1e",
        "1_chatcmpl-12ab-0f3c9d1e",
        "chatcmpl-12ab-0",
        "chatcmpl-12ab-2-0f3c9d1e",
    ],
)
def test_ids_that_vllm_makes_of_a_response_id_are_recognised(engine_id: str) -> None:
    assert same_request(engine_id, "chatcmpl-12ab")


@pytest.mark.parametrize("engine_id", ["chatcmpl-12ab-b-0f3c9d1e", "chatcmpl-12abc", "chatcmpl-12", "xchatcmpl-12ab"])
def test_an_id_that_only_begins_alike_belongs_to_somebody_else(engine_id: str) -> None:
    assert not same_request(engine_id, "chatcmpl-12ab")


def test_the_oldest_finished_requests_are_forgotten() -> None:
    served = ServedRequests()
    for number in range(KEPT + 1):
        served.add(f"r{number}x", RequestStatus(tier=0, tier_max_length=8, tokens=number, crossings=0))
    assert served.find("r0x") is None
    newest = served.find(f"r{KEPT}x")
    assert newest is not None
    assert newest.tokens == KEPT
