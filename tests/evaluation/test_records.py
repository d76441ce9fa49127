"""The journal keeps what was measured through whatever ends an evaluation."""

from pathlib import Path

import pytest

from longrope_vllm.errors import EvaluationError
from longrope_vllm.evaluation.records import Journal, Key, Record


def record(sample: str, method: str = "yarn") -> Record:
    key = Key(task="ppl", method=method, length=4096, group="bible", sample=sample)
    return Record(key=key, values={"loss": 2.5, "tokens": 4095.0}, curve=(2.0, 3.0), tier=8192, notes={"note": "x"})


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    Journal.open(path).add([record("0"), record("1")])
    Journal.open(path).add([record("2")])
    opened = Journal.open(path)
    assert list(opened.records.values()) == [record("0"), record("1"), record("2")]
    assert record("2").key in opened
    assert record("3").key not in opened


def test_a_line_that_was_cut_off_is_dropped_and_the_next_record_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    Journal.open(path).add([record("0"), record("1")])
    whole = path.read_bytes()
    for cut in range(len(whole.splitlines(keepends=True)[0]), len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal.open(path)
        assert list(journal.records) == [record("0").key]
        journal.add([record("2")])
        assert list(Journal.open(path).records) == [record("0").key, record("2").key]


def test_a_file_of_another_kind_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"something": "else"}\n')
    with pytest.raises(EvaluationError, match=r"line 1 of .*records\.jsonl: choose another"):
        Journal.open(path)
    assert path.read_text() == '{"something": "else"}\n'
