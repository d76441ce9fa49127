"""Where a study is kept: what is torn is cut, what is not a study is refused, the dead hold no lock."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from optuna.study import StudyDirection

from longrope_search.scoring.storage import FileLock, cut_torn_line, open_storage
from longrope_vllm.errors import SearchError

_FORK = multiprocessing.get_context("spawn")


def hold(path: str) -> None:
    """Take the lock and never give it back."""
    FileLock(Path(path)).acquire()
    Path(f"{path}.held").touch()
    time.sleep(600)


def test_a_process_that_was_killed_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    path.touch()
    process = _FORK.Process(target=hold, args=(str(path),))
    process.start()
    while not Path(f"{path}.held").exists():
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lock = FileLock(path)
    began = time.monotonic()
    lock.acquire()
    lock.release()
    assert time.monotonic() - began < 5  # Optuna's own locks are left behind for 30 seconds


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"whole\n", b"whole\n"),
        (b"whole\ntorn", b"whole\n"),
        (b"torn from the first byte", b""),
        (b"a\n" + b"x" * 10_000, b"a\n"),
        (b"a\n" + b"x" * 4096 + b"\n" + b"y" * 4096, b"a\n" + b"x" * 4096 + b"\n"),
    ],
)
def test_a_line_without_an_end_is_cut_off(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "study.log"
    path.write_bytes(before)
    cut_torn_line(path)
    assert path.read_bytes() == after


def test_a_study_with_a_torn_end_can_be_read_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    storage = open_storage(str(path), make=True)
    study = storage.create_new_study([StudyDirection.MINIMIZE], "one")
    storage.set_study_user_attr(study, "kept", 1)
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "worker')  # what a full disk leaves of a line
    again = open_storage(str(path), make=False)
    again.set_study_user_attr(again.get_study_id_from_name("one"), "later", 2)
    third = open_storage(str(path), make=False)
    assert third.get_study_user_attrs(third.get_study_id_from_name("one")) == {"kept": 1, "later": 2}


def test_a_study_that_is_not_there_is_not_made_for_a_worker(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="found none: start longrope search first"):
        open_storage(str(tmp_path / "study.log"), make=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [b"[1, 2]\n[3]\n", b"not JSON\nneither\n", b"\xff\xfe\x00\n\n", b'{"op_code": 77}\n{}\n']
)
def test_a_file_that_is_no_study_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.log"
    path.write_bytes(content)
    with pytest.raises(SearchError, match="Expected a journal of Optuna in"):
        open_storage(str(path), make=True)
    assert path.read_bytes() == content


def test_sqlite_keeps_a_study_too(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/study.db"
    storage = open_storage(place, make=True)
    storage.create_new_study([StudyDirection.MINIMIZE], "one")
    again = open_storage(place, make=False)
    assert [study.study_name for study in again.get_all_studies()] == ["one"]


def test_a_database_that_cannot_be_reached_is_named_without_its_password() -> None:
    with pytest.raises(SearchError, match="Expected a database for --study at") as caught:
        open_storage("nosuchdb://user:secret@host/name", make=True)
    assert "secret" not in str(caught.value).partition("found:")[0]


def test_a_study_torn_in_its_first_bytes_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    path.write_bytes(b'{"op_')
    storage = open_storage(str(path), make=True)
    storage.create_new_study([StudyDirection.MINIMIZE], "one")
    again = open_storage(str(path), make=False)
    assert [study.study_name for study in again.get_all_studies()] == ["one"]
