"""The store of files: what is in it is what a dictionary would hold, for each owner, until it expires."""

import os
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from files_app import Clock
from longrope_vllm.server.api_error import ApiError
from longrope_vllm.server.files.form import Upload
from longrope_vllm.server.files.records import FileRecord
from longrope_vllm.server.files.settings import FileSettings
from longrope_vllm.server.files.store import FileStore

OWNERS = ("anna", "bert")
LIMITS = {"file_bytes": 100, "owner_bytes": 250, "owner_files": 4, "expire_s": 50}


def store_in(folder: Path, clock: Clock, **limits: int | None) -> FileStore:
    return FileStore(FileSettings(directory=folder, **{**LIMITS, **limits}), clock=clock)  # type: ignore[arg-type]


def keep(
    store: FileStore, owner: str, data: bytes, *, expires_s: int | None = None, text: bytes | None = None
) -> FileRecord:
    """One upload; ``text`` is what was made of it, None for a format that is text already."""
    upload = Upload(filename="a.txt", content_type="text/plain", purpose="user_data", expires_s=expires_s)
    with store.begin(owner) as incoming:
        incoming.write(data)
        if text is not None:
            incoming.text.write_bytes(text)
        format = "plain" if text is None else "html"
        return store.keep(incoming, upload, owner=owner, format=format, tokens=len(data), tokenizer="words")


def listed(store: FileStore, owner: str) -> list[str]:
    found = store.page(owner, purpose=None, after=None, order="asc", limit=100)
    return [record.id for record in found]


def on_disk(folder: Path) -> set[str]:
    """Every file and folder of uploads, by its path."""
    return {str(path.relative_to(folder)) for place in ("incoming", "stored") for path in (folder / place).rglob("*")}


def code(error: pytest.ExceptionInfo[ApiError]) -> str:
    return str(error.value.body["code"])


@dataclass(frozen=True)
class Kept:
    """A file as the model knows it."""

    owner: str
    data: bytes
    text: bytes | None
    expires_at: float

    @property
    def size(self) -> int:
        return len(self.data) + len(self.text or b"")


CHOICES = st.tuples(
    st.sampled_from(["keep", "keep", "keep", "drop", "delete", "wait", "restart", "sweep"]),
    st.sampled_from(OWNERS),
    st.integers(0, 120),
    st.sampled_from([None, 10, 100]),
    st.one_of(st.none(), st.integers(0, 40)),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(CHOICES, max_size=25))
def test_the_store_behaves_as_a_dictionary_with_limits(
    steps: list[tuple[str, str, int, int | None, int | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, clock = tmp_path_factory.mktemp("store"), Clock()
    store, model = store_in(folder, clock), dict[str, Kept]()
    for action, owner, number, expires_s, text_bytes in steps:
        alive = {name: kept for name, kept in model.items() if kept.expires_at > clock.now}
        if action == "keep":
            text = None if text_bytes is None else b"t" * text_bytes
            new = Kept(owner, os.urandom(number), text, int(clock.now) + (expires_s or LIMITS["expire_s"]))
            mine = [kept for kept in alive.values() if kept.owner == owner]
            fits = sum(kept.size for kept in mine) + new.size <= LIMITS["owner_bytes"]
            room = sum(kept.size for kept in mine) < LIMITS["owner_bytes"] and len(mine) < LIMITS["owner_files"]
            if number <= LIMITS["file_bytes"] and fits and room:
                model[keep(store, owner, new.data, expires_s=expires_s, text=text).id] = new
            else:
                with pytest.raises(ApiError) as caught:
                    keep(store, owner, new.data, text=text)
                assert caught.value.status == 413
        elif action == "drop":
            with suppress(ApiError), store.begin(owner) as incoming:
                incoming.write(b"x" * number)
        elif action == "delete" and model:
            file_id = sorted(model)[number % len(model)]
            if file_id in alive and model[file_id].owner == owner:
                store.delete(file_id, owner=owner)
                del model[file_id]
            else:
                with pytest.raises(ApiError) as caught:
                    store.delete(file_id, owner=owner)
                assert code(caught) == "file_not_found"
        elif action == "wait":
            clock.now += number
        elif action == "restart":
            store.close()
            store = store_in(folder, clock)
        elif action == "sweep":
            store.sweep()
        check(store, model, clock.now)
    store.close()
    clock.now += 0.001
    store = store_in(folder, clock)
    alive = {name: kept for name, kept in model.items() if kept.expires_at > clock.now}
    assert {path.name for path in (folder / "stored").iterdir()} == alive.keys()
    assert not list((folder / "incoming").iterdir())
    store.close()


def check(store: FileStore, model: dict[str, Kept], now: float) -> None:
    """Every answer of ``store`` is that of ``model``."""
    for owner in OWNERS:
        mine = {name for name, kept in model.items() if kept.owner == owner and kept.expires_at > now}
        assert set(listed(store, owner)) == mine
        for name in model:
            if name not in mine:
                with pytest.raises(ApiError):
                    store.find(name, owner=owner)
                continue
            record = store.find(name, owner=owner)
            assert store.original(record).read_bytes() == model[name].data
            text = model[name].text
            assert store.text(record).read_bytes() == (model[name].data if text is None else text)


def test_ids_of_a_later_upload_sort_after(tmp_path: Path) -> None:
    clock = Clock()
    store = store_in(tmp_path, clock, owner_files=100, owner_bytes=10_000)
    ids = []
    for _ in range(20):
        ids.append(keep(store, "anna", b"x").id)
        clock.now += 0.002  # an id tells milliseconds
    assert listed(store, "anna") == ids == sorted(ids)
    assert len(set(ids)) == 20
    store.close()


def test_what_expires_never_is_never_swept(tmp_path: Path) -> None:
    clock = Clock()
    store = store_in(tmp_path, clock, expire_s=None)
    forever, soon = keep(store, "anna", b"x"), keep(store, "anna", b"y", expires_s=5)
    assert (forever.expires_at, soon.expires_at) == (None, int(clock.now) + 5)
    clock.now += 1e9
    assert listed(store, "anna") == [forever.id]
    store.begin("bert").__exit__(None, None, None)
    assert on_disk(tmp_path) == {f"stored/{forever.id}", f"stored/{forever.id}/original"}
    store.close()


def test_an_upload_is_refused_before_its_first_byte_where_its_length_says_so(tmp_path: Path) -> None:
    store = store_in(tmp_path, Clock())
    keep(store, "anna", b"x" * 100)
    keep(store, "anna", b"x" * 100)
    for least, expected in ((101, "file_too_large"), (60, "quota_exceeded")):
        with pytest.raises(ApiError) as caught:
            store.begin("anna", least=least)
        assert code(caught) == expected
        assert caught.value.body["limit"] == {"file_too_large": 100, "quota_exceeded": 250}[expected]
    with store.begin("anna", least=50) as incoming, pytest.raises(ApiError) as caught:
        incoming.write(b"x" * 51)
    assert code(caught) == "quota_exceeded"
    store.close()


def test_two_uploads_at_once_do_not_share_what_is_left(tmp_path: Path) -> None:
    store = store_in(tmp_path, Clock(), owner_bytes=100)
    upload = Upload(filename="a", content_type="", purpose="user_data", expires_s=None)
    with store.begin("anna", least=60, most=60) as first:
        with pytest.raises(ApiError) as caught:
            store.begin("anna", least=60, most=60)
        assert code(caught) == "quota_exceeded"
        with store.begin("anna") as second, pytest.raises(ApiError) as caught:
            second.write(b"x" * 41)
        assert code(caught) == "quota_exceeded"
        with store.begin("bert") as other:
            other.write(b"x" * 100)
        with store.begin("anna") as again:  # the room of the one that was dropped
            again.write(b"x" * 40)
            store.keep(again, upload, owner="anna", format="plain", tokens=1, tokenizer="words")
        first.write(b"x" * 60)
        store.keep(first, upload, owner="anna", format="plain", tokens=1, tokenizer="words")
    assert set(listed(store, "anna")) == {first.id, again.id}
    assert on_disk(tmp_path) == {f"stored/{kept.id}{of}" for kept in (first, again) for of in ("", "/original")}
    store.close()


def test_a_text_takes_no_room_of_an_upload_on_its_way(tmp_path: Path) -> None:
    store = store_in(tmp_path, Clock(), owner_bytes=100)
    upload = Upload(filename="a.html", content_type="", purpose="user_data", expires_s=None)
    with store.begin("anna", most=50) as page, store.begin("anna", most=40):
        page.write(b"x" * 50)
        page.text.write_bytes(b"x" * 11)
        with pytest.raises(ApiError) as caught:
            store.keep(page, upload, owner="anna", format="html", tokens=1, tokenizer="words")
    assert code(caught) == "quota_exceeded"
    store.close()


def test_uploads_on_their_way_are_files_as_well(tmp_path: Path) -> None:
    store = store_in(tmp_path, Clock(), owner_files=2)
    with store.begin("anna", most=1), store.begin("anna", most=1), pytest.raises(ApiError) as caught:
        store.begin("anna", most=1)
    assert code(caught) == "too_many_files"
    store.close()


def test_what_a_killed_upload_was_to_take_is_free(tmp_path: Path) -> None:
    store = store_in(tmp_path, Clock(), owner_bytes=100)
    with store.begin("anna") as living:
        left = shutil.copytree(living.folder, living.folder.with_name("left"))
    assert (left / "room").read_text() == "100 anna"  # and nobody holds a lock on it
    with store.begin("anna", least=100):
        pass
    store.close()


def test_a_start_touches_nothing_of_a_living_upload(tmp_path: Path) -> None:
    clock = Clock()
    store = store_in(tmp_path, clock)
    with store.begin("anna") as incoming:
        incoming.write(b"half")
        other = store_in(tmp_path, clock)
        assert incoming.folder.exists()
        upload = Upload(filename="a", content_type="", purpose="user_data", expires_s=None)
        kept = store.keep(incoming, upload, owner="anna", format="plain", tokens=1, tokenizer="words")
    assert other.find(kept.id, owner="anna") == kept
    assert other.original(kept).read_bytes() == b"half"
    other.close()
    store.close()


@pytest.mark.parametrize("left", ["folder", "record"])
def test_a_start_clears_files_without_record_and_records_without_file(left: str, tmp_path: Path) -> None:
    clock = Clock()
    store = store_in(tmp_path, clock)
    kept, whole = keep(store, "anna", b"x"), keep(store, "anna", b"y")
    store.close()
    if left == "folder":
        with sqlite3.connect(tmp_path / "records.sqlite") as connection:
            connection.execute("DELETE FROM files WHERE id = ?", (kept.id,))
        connection.close()
    else:
        store.original(kept).unlink()
        store.original(kept).parent.rmdir()
    store = store_in(tmp_path, clock)
    assert listed(store, "anna") == [whole.id]
    assert on_disk(tmp_path) == {f"stored/{whole.id}", f"stored/{whole.id}/original"}
    store.close()


def test_files_are_closed_to_other_users(tmp_path: Path) -> None:
    store = store_in(tmp_path / "new", Clock())
    kept = keep(store, "anna", b"x")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert store.original(kept).stat().st_mode & 0o077 == 0
    store.close()


def test_tokens_of_another_model_can_be_noted(tmp_path: Path) -> None:
    store = store_in(tmp_path, Clock())
    kept = keep(store, "anna", b"x")
    store.set_tokens(kept, tokens=7, tokenizer="other")
    assert store.find(kept.id, owner="anna") == replace(kept, tokens=7, tokenizer="other")
    store.close()
