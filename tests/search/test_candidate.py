"""What makes two candidates the same, written out; the key itself is pinned, because studies on disk hold it."""

from dataclasses import replace

import numpy as np
import pytest

from longrope_search.candidate import Candidate

CANDIDATE = Candidate(factors=(1.0, 1.5, 2.25), attention_factor=1.1, start_tokens=4, origin="pi")


@pytest.mark.parametrize(
    "change",
    [
        {"factors": (1.0, 1.5, float(np.nextafter(2.25, 3)))},
        {"factors": (1.0, 2.25, 1.5)},
        {"factors": (1.0, 1.5)},
        {"attention_factor": float(np.nextafter(1.1, 1))},
        {"start_tokens": 0},
    ],
)
def test_whatever_decides_the_loss_changes_the_key_by_its_last_bit(change: dict[str, object]) -> None:
    other = replace(CANDIDATE, **change)
    assert other != CANDIDATE
    assert other.key != CANDIDATE.key


def test_who_proposed_a_candidate_does_not_make_it_another() -> None:
    other = replace(CANDIDATE, origin="mutant")
    assert other == CANDIDATE
    assert hash(other) == hash(CANDIDATE)
    assert other.key == CANDIDATE.key


def test_the_key_is_the_one_that_studies_on_disk_hold() -> None:
    assert CANDIDATE.key == "e7ddf91ad59fdf54a2580f89"


def test_equal_candidates_have_equal_keys_whatever_their_numbers_are_made_of() -> None:
    plain = Candidate(factors=(1.0, 2.0), attention_factor=1.0, start_tokens=4)
    for other in (
        Candidate(factors=(1, 2), attention_factor=1, start_tokens=4),
        Candidate(factors=(np.float64(1), np.float64(2)), attention_factor=np.float64(1), start_tokens=np.int64(4)),
    ):
        assert other == plain
        assert other.key == plain.key
