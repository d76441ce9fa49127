"""What processes that share a directory of files do, some of them until they are killed. Run in processes of their own.

Each function gets the directory. ``DEATHS`` end by SIGKILL at the moment that their name says.
"""

import asyncio
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files.form import Upload
from longrope_vllm.server.files.records import FileRecord, Records
from longrope_vllm.server.files.settings import FileSettings
from longrope_vllm.server.files.store import FileStore

OWNER = "anna"
UPLOAD = Upload(filename="a", content_type="", purpose="user_data", expires_s=None)


def opened(folder: Path, owner_files: int = 1_000_000) -> FileStore:
    return FileStore(FileSettings(directory=folder, owner_files=owner_files))


def keep(store: FileStore, size: int) -> FileRecord:
    with store.begin(OWNER) as incoming:
        incoming.write(b"x" * size)
        incoming.text.write_bytes(b"text")
        return store.keep(incoming, UPLOAD, owner=OWNER, format="html", tokens=1, tokenizer="words")


def die(*args: Any, **kwargs: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def in_an_upload(folder: Path) -> None:
    with opened(folder).begin(OWNER) as incoming:
        incoming.write(b"x" * 100_000)
        incoming.text.write_bytes(b"te")
        die()


def before_the_rename(folder: Path) -> None:
    Path.rename = die  # type: ignore[method-assign]
    keep(opened(folder), 10)


def between_rename_and_record(folder: Path) -> None:
    Records.insert = die  # type: ignore[method-assign]
    keep(opened(folder), 10)


def before_a_record_is_deleted(folder: Path) -> None:
    store = opened(folder)
    kept = keep(store, 10)
    Records.delete = die  # type: ignore[method-assign]
    store.delete(kept.id, owner=OWNER)


def between_record_and_file_in_deletion(folder: Path) -> None:
    store = opened(folder)
    kept = keep(store, 10)
    shutil.rmtree = die  # type: ignore[assignment]
    store.delete(kept.id, owner=OWNER)


def half_through_the_removal_of_a_folder(folder: Path) -> None:
    def remove_half(path: Path, **kwargs: Any) -> None:
        (path / "original").unlink()
        die()

    store = opened(folder)
    kept = keep(store, 10)
    shutil.rmtree = remove_half  # type: ignore[assignment]
    store.delete(kept.id, owner=OWNER)


def after_an_upload(folder: Path) -> None:
    keep(opened(folder), 10)
    die()


DEATHS: dict[Callable[[Path], None], int] = {
    in_an_upload: 0,
    before_the_rename: 0,
    between_rename_and_record: 0,
    before_a_record_is_deleted: 1,
    between_record_and_file_in_deletion: 0,
    half_through_the_removal_of_a_folder: 0,
    after_an_upload: 1,
}
"""A death to the number of files that are there after it."""


def add_and_delete_for_ever(folder: Path) -> None:
    store = opened(folder)
    while True:
        kept = keep(store, 1_000)
        if time.time_ns() % 2:
            store.delete(kept.id, owner=OWNER)


def add_thirty_and_delete_fifteen(folder: Path) -> None:
    store = opened(folder)
    ids = [keep(store, 50).id for _ in range(30)]
    for file_id in ids[::2]:
        store.delete(file_id, owner=OWNER)


def add_up_to_twenty(folder: Path) -> None:
    store = opened(folder, owner_files=20)
    for _ in range(20):
        with suppress(ApiError):
            keep(store, 10)


def add_slowly(folder: Path) -> None:
    """Says when it has begun, and goes on when it is told."""
    store = opened(folder)
    with store.begin(OWNER) as incoming:
        incoming.write(b"half")
        (folder / "begun").touch()
        while not (folder / "go on").exists():
            time.sleep(0.01)
        incoming.text.write_bytes(b"text")
        store.keep(incoming, UPLOAD, owner=OWNER, format="html", tokens=1, tokenizer="words")


def fill_the_disk(folder: Path) -> None:
    """A limit of the kernel on the size of files stands for the disk: the same call fails in the same place."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    try:
        keep(opened(folder), 4_000_000)
    except ApiError as error:
        (folder / "refusal").write_text(f"{error.status} {error.body['code']}")


def upload_200_mb(folder: Path) -> None:
    """A page of 200 MB through the route; notes the status and by how many bytes this process has grown."""
    from files_app import app_of, form_headers, part, send, service

    beginning = part("purpose", b"user_data") + part("file", b"<p>a word", filename="a.html").removesuffix(b"\r\n")

    def body() -> Iterator[bytes]:
        yield beginning
        for _ in range(3_052):
            yield b"<!--" + b"x" * 65_529 + b"-->"
        yield b"\r\n--cut--\r\n"

    app = app_of(service(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, told = asyncio.run(send(app, body(), form_headers()))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    (folder / "measured").write_text(json.dumps({"status": status, "told": told, "grown": grown}))
