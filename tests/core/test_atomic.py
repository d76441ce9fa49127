"""Oracle: what another process sees in the folder, before, during and after."""

import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from longrope_vllm.atomic import remove_unfinished, write_atomically


def test_text_is_written_as_utf8_and_bytes_as_they_are(tmp_path: Path) -> None:
    write_atomically(tmp_path / "text", "λ\r\n")
    write_atomically(tmp_path / "bytes", b"\xff\x00")
    assert (tmp_path / "text").read_bytes() == "λ\r\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\xff\x00"


def test_a_new_file_is_readable_by_others_and_leaves_no_temporary_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_the_mode_of_a_replaced_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_root_leaves_a_file_to_those_it_belonged_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    write_atomically(path, "new")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o640)


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    """Downloaded checkpoints are folders of links into a shared store, which must not change."""
    (tmp_path / "store").write_text("shared")
    (tmp_path / "file").symlink_to("store")
    write_atomically(tmp_path / "file", "mine")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "store").read_text() == "shared"


def test_a_failure_part_way_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with full_disk(64), pytest.raises(OSError, match="File too large"):
        write_atomically(path, "x" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "file", "new")


def test_a_target_that_is_a_folder_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_reader_sees_the_old_content_or_the_new_one_and_never_a_part(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", ["a" * 100_000, "b" * 100_000]
    write_atomically(path, contents[0])
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for round_number in range(50):
        write_atomically(path, contents[round_number % 2])
    done.set()
    reader.join()
    assert seen <= set(contents)
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("a.json", ".a.jsonl", ".b.json.x", "a.json.x")]
    for path in (*kept, tmp_path / ".a.json.x8f2"):
        path.write_text("")
    remove_unfinished(tmp_path / "a.json")
    assert sorted(tmp_path.iterdir()) == sorted(kept)
