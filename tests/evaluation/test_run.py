"""Work is done once, written down as it comes, and what had begun when another piece failed is kept."""

import threading
from pathlib import Path

import pytest

from longrope_vllm.errors import EvaluationError, ServerError
from longrope_vllm.evaluation.records import Journal, Key, Record
from longrope_vllm.evaluation.run import do_all, pending
from longrope_vllm.evaluation.work import Work


def key(sample: int) -> Key:
    return Key(task="passkey", method="none", length=1024, group="passkey", sample=str(sample))


def piece(sample: int, done: list[int], value: float = 1.0) -> Work:
    def measure() -> list[Record]:
        done.append(sample)
        return [Record(key=key(sample), values={"score": value})]

    return Work(title=str(sample), keys=(key(sample),), tokens=1024, measure=measure)


def failing(sample: int, after: threading.Barrier | None = None) -> Work:
    def measure() -> list[Record]:
        if after is not None:
            after.wait(10)
        raise ServerError("the server died")

    return Work(title=str(sample), keys=(key(sample),), tokens=1024, measure=measure)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_what_is_in_the_journal_is_not_measured_again(concurrency: int, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    done: list[int] = []
    work = [piece(sample, done) for sample in range(10)]
    do_all(work[:4], Journal.open(path), concurrency=concurrency)
    assert sorted(done) == [0, 1, 2, 3]
    journal = Journal.open(path)
    assert pending(work, journal) == work[4:]
    do_all(work, journal, concurrency=concurrency)
    assert sorted(done) == list(range(10))
    assert len(Journal.open(path).records) == 10


def test_what_was_finished_before_a_failure_is_kept(tmp_path: Path) -> None:
    done: list[int] = []
    journal = Journal.open(tmp_path / "records.jsonl")
    with pytest.raises(ServerError, match="the server died"):
        do_all([piece(0, done), failing(1), piece(2, done)], journal)
    assert list(Journal.open(journal.path).records) == [key(0)]


def test_what_runs_beside_a_failure_is_finished_and_kept_and_nothing_more_begins(tmp_path: Path) -> None:
    done: list[int] = []
    both = threading.Barrier(2)
    began = piece(1, done)

    def slow() -> list[Record]:
        both.wait(10)
        return list(began.measure())

    beside = Work(title="beside", keys=began.keys, tokens=1, measure=slow)
    journal = Journal.open(tmp_path / "records.jsonl")
    with pytest.raises(ServerError, match="the server died"):
        do_all([failing(0, both), beside, *(piece(sample, done) for sample in range(2, 9))], journal, concurrency=2)
    assert key(1) in journal
    assert len(done) <= 2  # one may have begun between the two ends


def test_a_figure_that_is_none_ends_a_run_with_what_runs_beside_it_kept(tmp_path: Path) -> None:
    both = threading.Barrier(2)
    bad, good = piece(0, [], float("nan")), piece(1, [])

    def together(work: Work) -> Work:
        def measure() -> list[Record]:
            both.wait(10)
            return list(work.measure())

        return Work(title=work.title, keys=work.keys, tokens=1, measure=measure)

    journal = Journal.open(tmp_path / "records.jsonl")
    with pytest.raises(EvaluationError, match="Expected a finite score"):
        do_all([together(bad), together(good)], journal, concurrency=2)
    assert list(journal.records) == [key(1)]


def test_figures_that_are_no_numbers_are_an_error_and_not_a_record(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "records.jsonl")
    with pytest.raises(EvaluationError, match="Expected a finite score, found nan in passkey none 1k passkey 0"):
        do_all([piece(0, [], float("nan"))], journal)
    assert not journal.records
