"""The table of what was measured: exact, shared, and of one search only."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from longrope_search.candidate import Candidate
from longrope_search.methods.engine import Gradient
from longrope_search.model.scorer import Measured
from longrope_search.scoring.storage import open_storage
from longrope_search.scoring.study import Study, UnmeasuredError, requests, worker_name
from longrope_vllm.errors import SearchError

SETTINGS = {"model": "tiny", "length": 256, "factors": [1.0, 2.5]}
ONE = Candidate(factors=(1.0, 1.1, 1 / 3), attention_factor=1.0377, start_tokens=4, origin="pi")


def joined(place: Path, worker: str = "", **settings: object) -> Study:
    """A study at ``place``, as a process of its own sees it."""
    study = Study.join(
        open_storage(str(place), make=True),
        "one 256",
        settings={**SETTINGS, **settings},
        request={"name": "one"},
        worker=worker or worker_name(),
    )
    study.refresh()
    return study


@pytest.fixture(params=["study.log", "sqlite:///{}/study.db"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A journal file and a database."""
    return str(request.param).format(tmp_path) if "sqlite" in request.param else str(tmp_path / request.param)


def test_what_one_process_writes_another_reads_to_the_last_bit(place: str) -> None:
    slope = Gradient(log_factors=np.array([0.1, -1e-17, 1 / 3]), log_attention_factor=-2.5e-9)
    first = joined(place)  # type: ignore[arg-type]
    first.write(ONE, 3, Measured(loss=2.0 / 3.0, seconds=1.25, curve=(0.1, 0.7), last=0.1 + 0.2))
    first.write(ONE, 3, Measured(loss=0.123456789012345678, seconds=1.0, gradient=slope))
    second = joined(place)  # type: ignore[arg-type]
    plain, with_gradient = second.measured(ONE, 3), second.measured(ONE, 3, gradient=True)
    assert plain is not None
    assert (plain.loss, plain.curve, plain.last) == (2.0 / 3.0, (0.1, 0.7), 0.1 + 0.2)
    assert plain.gradient is None
    assert with_gradient is not None
    assert with_gradient.gradient is not None
    assert with_gradient.loss == 0.123456789012345678
    assert with_gradient.gradient.log_factors.tolist() == [0.1, -1e-17, 1 / 3]
    assert with_gradient.gradient.log_attention_factor == -2.5e-9
    assert second.measured(ONE, 2) is None


def test_candidates_are_told_apart_by_what_they_are_not_by_who_proposed_them(tmp_path: Path) -> None:
    study = joined(tmp_path / "study.log")
    study.write(ONE, 0, Measured(loss=1.0, seconds=0.0))
    study.refresh()
    same = Candidate(factors=ONE.factors, attention_factor=1.0377, start_tokens=4, origin="mutant")
    others = [
        Candidate(factors=(1.0, 1.1, 1 / 3 + 1e-16), attention_factor=1.0377, start_tokens=4),
        Candidate(factors=ONE.factors, attention_factor=1.0377),
        Candidate(factors=ONE.factors, start_tokens=4),
    ]
    assert study.measured(same, 0) is not None
    assert [study.measured(other, 0) for other in others if other != ONE] == [None] * 3


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"model": "other"}, "model 'tiny'"), ({"length": 512}, "length 256"), ({"new": 1}, "new None")],
)
def test_a_study_of_another_search_is_refused(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    joined(tmp_path / "study.log")
    with pytest.raises(SearchError, match=f"found {said}"):
        joined(tmp_path / "study.log", **changed)


def test_a_search_killed_between_making_its_study_and_its_settings_goes_on(tmp_path: Path) -> None:
    from optuna.study import StudyDirection

    open_storage(str(tmp_path / "study.log"), make=True).create_new_study([StudyDirection.MINIMIZE], "one 256")
    joined(tmp_path / "study.log")
    with pytest.raises(SearchError):
        joined(tmp_path / "study.log", length=512)


def test_reading_makes_nothing(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "study.log"), make=True)
    with pytest.raises(UnmeasuredError):
        Study.read(storage, "one 256", settings=SETTINGS)
    assert storage.get_all_studies() == []


def test_of_two_claims_the_later_one_holds_and_both_know(tmp_path: Path) -> None:
    first, second = joined(tmp_path / "study.log", "first"), joined(tmp_path / "study.log", "second")
    assert first.claim(ONE, 0)
    second.refresh()
    assert second.claimed_for(ONE, 0) is not None
    assert first.claimed_for(ONE, 0) is None  # its own
    assert second.claim(ONE, 0)  # it does not ask: who may take a claim over decides the bench
    first.refresh()
    assert first.claimed_for(ONE, 0) is not None


def test_a_finished_trial_is_seen_by_optuna_and_takes_nothing_in(tmp_path: Path) -> None:
    import optuna

    study = joined(tmp_path / "study.log")
    study.write(ONE, 0, Measured(loss=1.5, seconds=0.0))
    study.refresh()
    study.finish(ONE, 1.5, complete=True)
    study.write(ONE, 0, Measured(loss=1.5, seconds=0.0))
    study.finish(ONE, 1.5, complete=True)
    seen = optuna.load_study(study_name="one 256", storage=open_storage(str(tmp_path / "study.log"), make=False))
    assert seen.best_value == 1.5
    assert seen.best_params == {
        "factor_000": 1.0,
        "factor_001": 1.1,
        "factor_002": 1 / 3,
        "attention_factor": 1.0377,
        "start_tokens": 4,
    }


def test_two_who_make_the_trial_of_a_candidate_at_once_agree_on_one(tmp_path: Path) -> None:
    first, second = joined(tmp_path / "study.log", "first"), joined(tmp_path / "study.log", "second")
    first.write(ONE, 0, Measured(loss=1.0, seconds=0.0))  # the second has not read this when it makes its own
    second.write(ONE, 1, Measured(loss=2.0, seconds=0.0))
    for study in (first, second):
        study.refresh()
        assert [study.measured(ONE, at) is not None for at in (0, 1)] == [True, True]


def test_workers_find_the_request_in_the_storage(tmp_path: Path) -> None:
    joined(tmp_path / "study.log")
    found = requests(open_storage(str(tmp_path / "study.log"), make=False))
    assert json.loads(json.dumps(found)) == [{"name": "one"}]


def test_what_is_measured_into_a_trial_that_ended_meanwhile_is_kept(tmp_path: Path) -> None:
    first, second = joined(tmp_path / "study.log", "first"), joined(tmp_path / "study.log", "second")
    first.write(ONE, 0, Measured(loss=1.0, seconds=0.0))
    second.refresh()
    second.finish(ONE, 1.0, complete=False)  # pruned, and asked for again by another part of the search
    first.write(ONE, 1, Measured(loss=2.0, seconds=0.0))
    for study in (first, second, joined(tmp_path / "study.log", "third")):
        study.refresh()
        found = [study.measured(ONE, at) for at in (0, 1)]
        assert [one and one.loss for one in found] == [1.0, 2.0]


def test_of_two_measurements_of_the_same_the_first_counts_for_all(tmp_path: Path) -> None:
    first, second = joined(tmp_path / "study.log", "first"), joined(tmp_path / "study.log", "second")
    assert first.write(ONE, 0, Measured(loss=1.0, seconds=0.0)).loss == 1.0
    assert second.write(ONE, 0, Measured(loss=1.0000001, seconds=0.0)).loss == 1.0
    first.refresh()
    found = first.measured(ONE, 0)
    assert found is not None
    assert found.loss == 1.0


def test_a_process_of_this_machine_that_is_gone_claims_nothing(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = joined(tmp_path / "study.log", f"{socket.gethostname()}:{ended.pid}:1")
    elsewhere = joined(tmp_path / "study.log", f"another-machine:{ended.pid}:1")
    assert gone.claim(ONE, 0)
    assert elsewhere.claim(ONE, 1)
    here = joined(tmp_path / "study.log")
    assert here.claimed_for(ONE, 0) is None
    assert here.claimed_for(ONE, 1) is not None
