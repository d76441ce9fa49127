"""Processes that are killed, and processes that share a directory: no half file is visible, nothing stays behind."""

import json
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

import file_processes
from file_processes import DEATHS, OWNER, opened
from longrope_vllm.server.files.store import FileStore

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["file_processes"])


def start(work: Callable[[Path], None], folder: Path) -> BaseProcess:
    process = CONTEXT.Process(target=work, args=(folder,), daemon=True)
    process.start()
    return process


def finish(*processes: BaseProcess) -> None:
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def check_whole(store: FileStore, folder: Path) -> int:
    """Every record has its file, every file its record, nothing is on its way; the number of files."""
    records = store.page(OWNER, purpose=None, after=None, order="asc", limit=10_000)
    assert names(folder / "stored") == {record.id for record in records}
    assert names(folder / "incoming") == set()
    for record in records:
        assert store.original(record).stat().st_size == record.bytes
        assert store.text(record).read_bytes() == b"text"
    return len(records)


def check_whole_after_start(folder: Path) -> int:
    store = opened(folder)
    found = check_whole(store, folder)
    store.close()
    return found


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.__name__)
def test_after_a_kill_the_next_start_finds_whole_files_only(death: Callable[[Path], None], tmp_path: Path) -> None:
    living = opened(tmp_path)
    process = start(death, tmp_path)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    for record in living.page(OWNER, purpose=None, after=None, order="asc", limit=10):
        assert living.original(record).stat().st_size == record.bytes  # also before that start
    living.close()
    assert check_whole_after_start(tmp_path) == DEATHS[death]


def test_kills_at_any_moment_leave_whole_files_only(tmp_path: Path) -> None:
    """Another moment each time, over uploads and deletions that never stop, beside a process that goes on."""
    other = start(file_processes.add_and_delete_for_ever, tmp_path)
    for turn in range(12):
        process = start(file_processes.add_and_delete_for_ever, tmp_path)
        before, deadline = names(tmp_path / "stored"), time.monotonic() + 60
        while names(tmp_path / "stored") <= before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.007 * turn)
        process.kill()
        process.join()
        assert other.is_alive()
    other.kill()
    other.join()
    check_whole_after_start(tmp_path)


def test_processes_that_share_a_directory_see_the_same_files(tmp_path: Path) -> None:
    finish(*(start(file_processes.add_thirty_and_delete_fifteen, tmp_path) for _ in range(3)))
    assert check_whole_after_start(tmp_path) == 3 * 15


def test_the_quota_holds_over_processes(tmp_path: Path) -> None:
    finish(*(start(file_processes.add_up_to_twenty, tmp_path) for _ in range(3)))
    assert check_whole_after_start(tmp_path) == 20


def test_a_living_process_keeps_its_upload_through_starts_of_others(tmp_path: Path) -> None:
    process = start(file_processes.add_slowly, tmp_path)
    while not (tmp_path / "begun").exists():
        assert process.is_alive()
        time.sleep(0.01)
    opened(tmp_path).close()
    (tmp_path / "go on").touch()
    finish(process)
    assert check_whole_after_start(tmp_path) == 1


def test_a_full_disk_is_507_and_nothing_is_left(tmp_path: Path) -> None:
    finish(start(file_processes.fill_the_disk, tmp_path))
    assert (tmp_path / "refusal").read_text() == "507 insufficient_storage"
    assert names(tmp_path / "incoming") == names(tmp_path / "stored") == set()


def test_an_upload_of_200_mb_takes_a_few_megabytes_of_memory(tmp_path: Path) -> None:
    finish(start(file_processes.upload_200_mb, tmp_path))
    measured = json.loads((tmp_path / "measured").read_text())
    assert measured["status"] == 200, measured
    assert measured["told"]["bytes"] > 200_000_000
    assert measured["told"]["tokens"] == 4  # "Document a.html: a word"
    assert measured["grown"] < 40_000_000
