"""``longrope search worker`` and ``report``: what knows a search by its study alone."""

import shutil
from pathlib import Path

import pytest

from longrope_vllm.cli.main import main
from longrope_vllm.errors import EXIT_CODE
from tiny_models import byte_tokenizer, tiny_llama

SMALL = ("--method", "evolution", "--population", "4", "--iterations", "1", "--samples", "3", "--held-out", "1")
WORDS = ("--target", "512", "--dtype", "float32", "--start-tokens", "0", *SMALL)


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """The study of a search that is complete, beside the checkpoint ``model``."""
    model = byte_tokenizer(tiny_llama(tmp_path / "model"))
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number} bottles of beer on the wall. " for number in range(100)))
    words = [str(model), "--out", str(tmp_path / "found.json"), "--documents", str(text), *WORDS]
    assert main(["search", *words]) == 0
    return tmp_path / "found.study.log"


def test_a_worker_may_have_the_checkpoint_elsewhere(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = searched.parent / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(searched.parent / "model", moved)
    assert main(["search", "worker", "--study", str(searched)]) == EXIT_CODE
    assert "Expected a checkpoint directory, found none at" in capsys.readouterr().err
    assert main(["search", "worker", "--study", str(searched), "--model", str(moved)]) == 0
    assert "the search is complete" in capsys.readouterr().out


def test_a_worker_with_another_checkpoint_is_refused(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = byte_tokenizer(tiny_llama(searched.parent / "other", seed=1))
    assert main(["search", "worker", "--study", str(searched), "--model", str(other)]) == EXIT_CODE
    assert "Expected a study of the same search, found model" in capsys.readouterr().err


def test_of_several_searches_in_a_study_one_has_to_be_named(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, text = searched.parent / "model", searched.parent / "text.txt"
    again = [str(model), "--out", str(searched.parent / "other.json"), "--study", str(searched), *WORDS]
    assert main(["search", *again, "--documents", str(text), "--seed", "3"]) == 0
    assert main(["search", "worker", "--study", str(searched)]) == EXIT_CODE
    assert "one of found, other, found None: give it with --name" in capsys.readouterr().err
    assert main(["search", "worker", "--study", str(searched), "--name", "other"]) == 0


def test_a_report_is_drawn_from_the_study_alone_and_changes_nothing(searched: Path) -> None:
    page, before = searched.parent / "page.html", searched.read_bytes()
    assert main(["search", "report", "--study", str(searched), "--out", str(page)]) == 0
    assert "Searched rope factors of model" in page.read_text()
    assert searched.read_bytes() == before


def test_a_report_of_a_search_that_runs_says_so(searched: Path) -> None:
    lines = searched.read_bytes().splitlines(keepends=True)
    searched.write_bytes(b"".join(lines[: len(lines) // 2]))
    page, before = searched.parent / "page.html", searched.read_bytes()
    assert main(["search", "report", "--study", str(searched), "--out", str(page)]) == 0
    assert "is running" in page.read_text()
    assert searched.read_bytes() == before


def test_a_search_goes_on_from_a_study_in_a_database(searched: Path) -> None:
    model, text = searched.parent / "model", searched.parent / "text.txt"
    place = f"sqlite:///{searched.parent}/study.db"
    out = searched.parent / "again.json"
    words = [str(model), "--out", str(out), "--study", place, "--documents", str(text), *WORDS]
    assert main(["search", *words]) == 0
    first = out.read_bytes()
    out.unlink()
    assert main(["search", "worker", "--study", place]) == 0
    assert main(["search", *words]) == 0
    assert out.read_bytes() == first


def test_a_report_does_not_overwrite_the_study(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = searched.read_bytes()
    assert main(["search", "report", "--study", str(searched), "--out", str(searched)]) == EXIT_CODE
    assert "Expected a file of its own for the report" in capsys.readouterr().err
    assert searched.read_bytes() == before
