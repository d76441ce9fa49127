"""Changes of the file of keys, by which comments and order stay as they were."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from longrope_vllm.atomic import write_atomically
from longrope_vllm.extras import require
from longrope_vllm.server.doors.keys_file import (
    KeysFileError,
    Limits,
    check_name,
    hash_of,
    new_key,
    parse_keys,
    read_keys,
)

_PRIVATE = 0o600


def add_key(path: Path, name: str, *, limits: Limits, admin: bool) -> str:
    """A new key for the new owner ``name``; the file is made if there is none. Raises ``KeysFileError``."""
    check_name(name)
    with _edited(path) as owners:
        if name in owners:
            raise KeysFileError(
                f"Expected a new name, found {name} in {path}: longrope keys rotate {name} gives it a new key."
            )
        key = new_key()
        stated = {limit: amount for limit, amount in asdict(limits).items() if amount is not None}
        owners[name] = {"hashes": [hash_of(key)], **stated, "admin": admin}
    return key


def rotate_key(path: Path, name: str) -> str:
    """A second key for ``name``; the newest of those it had goes on working. Raises ``KeysFileError``."""
    with _edited(path) as owners:
        table = _of(owners, name, path)
        key = new_key()
        table["hashes"] = [table["hashes"][-1], hash_of(key)]
    return key


def retire_keys(path: Path, name: str) -> None:
    """Let only the newest key of ``name`` work. Raises ``KeysFileError``."""
    with _edited(path) as owners:
        table = _of(owners, name, path)
        table["hashes"] = [table["hashes"][-1]]


def remove_key(path: Path, name: str) -> None:
    """Remove ``name`` with all of its keys. Raises ``KeysFileError``."""
    with _edited(path) as owners:
        _of(owners, name, path)
        del owners[name]


@contextmanager
def _edited(path: Path) -> Iterator[Any]:
    """The table of owners, written back on exit. Whoever else edits waits."""
    require("tomlkit", "http")
    import tomlkit

    target = path.resolve()  # what a link points at is replaced, not the link
    with _locked(target.parent):
        document = tomlkit.document()
        if target.exists():
            read_keys(target)
            document = tomlkit.parse(target.read_text())
        if "keys" not in document:
            document["keys"] = tomlkit.table(is_super_table=True)
        yield document["keys"]
        text = tomlkit.dumps(document)
        parse_keys(text.encode(), source=str(path))
        write_atomically(target, text, mode=_PRIVATE)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The only one that edits in ``folder``."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _of(owners: Any, name: str, path: Path) -> Any:
    if name not in owners:
        raise KeysFileError(f"Expected one of {', '.join(owners) or 'no names'} in {path}, found {name!r}.")
    return owners[name]
