"""The file of API keys: who they are for, and how much each may use. It holds hashes, never a key.

    [keys.alice]
    hashes = ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    requests_per_minute = 60
    tokens_per_minute = 2000000
    longest_prompt = "128k"
    concurrent_long = 2
    admin = false

The name is the owner: the keys under one name share their limits, and see the same files and requests. Several hashes
are several keys, as during a rotation. Whatever is left out is not limited.
"""

import hashlib
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from longrope_vllm.errors import LongRopeError
from longrope_vllm.lengths import parse_length

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_LARGEST = 10**12
_FILE_BYTES = 4_000_000
"""Nobody writes longer ones; a device or a wrong path would be read without end."""
_OTHERS_MAY_WRITE = 0o022


class KeysFileError(LongRopeError):
    """A file of keys that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one owner may use; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Prompt and output tokens together."""
    longest_prompt: int | None = None
    """In tokens."""
    concurrent_long: int | None = None
    """Long requests at one time."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One owner of the file, or one key of ``--api-key``. ``hashes`` are ``hash_of`` its keys."""

    owner: str
    """Whose files and requests: the same after a restart and after a rotation."""
    hashes: tuple[str, ...] = field(repr=False)
    admin: bool = False
    limits: Limits = Limits()


def new_key() -> str:
    """A random key of 256 bits."""
    return f"sk-{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """What is kept of ``key``.

    SHA-256 without salt or stretching: those slow down whoever guesses passwords, and 256 random bits are not guessed.
    A slow hash would only let anybody load the server with wrong keys.
    """
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in the file at ``path``. Raises ``KeysFileError``, also when others may write to it."""
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise KeysFileError(
            f"Expected a file of keys, found {error.strerror} at {path}: make one with longrope keys add NAME."
        ) from None
    if mode & _OTHERS_MAY_WRITE:
        raise KeysFileError(
            f"Expected a file of keys that only its owner may write, found mode {mode & 0o777:04o}: chmod 600 {path}."
        )
    if len(data) > _FILE_BYTES:
        raise KeysFileError(f"Expected a file of keys of at most {_FILE_BYTES:,} bytes, found a longer one at {path}.")
    return parse_keys(data, source=str(path))


def parse_keys(data: bytes, *, source: str) -> tuple[Key, ...]:
    """The keys in the TOML text ``data``. Raises ``KeysFileError``, which names ``source``."""
    try:
        found = tomllib.loads(data.decode())
    except RecursionError:
        raise KeysFileError(f"Expected a file of keys in {source}, found values nested too deeply.") from None
    except ValueError as error:  # TOML, UTF-8, numbers and dates that are none
        raise KeysFileError(f"Expected a file of keys in TOML, found in {source}: {error}") from None
    owners = found.get("keys", {})  # none: everybody was removed
    if not isinstance(owners, Mapping) or not found.keys() <= {"keys"}:
        raise KeysFileError(f"Expected nothing but tables [keys.NAME] in {source}, found {sorted(found)[:5]}.")
    keys = tuple(_key(name, stated, source=source) for name, stated in owners.items())
    _check_different(keys, source=source)
    return keys


def check_name(name: str) -> None:
    """Raise ``KeysFileError`` unless ``name`` can be an owner's."""
    if not _NAME.fullmatch(name):
        raise KeysFileError(f"Expected a name of letters, digits and _ . @ - (at most 64), found {name[:80]!r}.")


def _key(name: str, stated: Any, *, source: str) -> Key:
    check_name(name)
    where = f"in [keys.{name}] of {source}"
    known = {"hashes", "admin", *(limit.name for limit in fields(Limits))}
    if not isinstance(stated, Mapping) or not stated.keys() <= known:
        raise KeysFileError(f"Expected only {', '.join(sorted(known))} {where}, found {str(stated)[:80]}.")
    hashes, admin = stated.get("hashes"), stated.get("admin", False)
    valid = isinstance(hashes, list) and hashes and all(isinstance(one, str) and _HASH.fullmatch(one) for one in hashes)
    if not valid:
        raise KeysFileError(f"Expected hashes as a list of sha256:HEX {where}, found something else.")
    assert isinstance(hashes, list)
    if not isinstance(admin, bool):
        raise KeysFileError(f"Expected admin to be true or false {where}, found {str(admin)[:40]!r}.")
    limits = {
        name: _amount(name, value, where=where) for name, value in stated.items() if name not in ("hashes", "admin")
    }
    return Key(owner=f"key:{name}", hashes=tuple(hashes), admin=admin, limits=Limits(**limits))


def _amount(name: str, value: Any, *, where: str) -> int:
    try:
        amount = parse_length(value) if isinstance(value, str) and name == "longest_prompt" else value
    except LongRopeError as error:
        raise KeysFileError(f"{error} It stands as {name} {where}.") from None
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 < amount <= _LARGEST:
        raise KeysFileError(f"Expected {name} to be a positive number {where}, found {str(value)[:40]!r}.")
    return amount


def _check_different(keys: tuple[Key, ...], *, source: str) -> None:
    owner_of: dict[str, str] = {}
    for key in keys:
        for one in key.hashes:
            before = owner_of.setdefault(one, key.owner)
            if before != key.owner:
                raise KeysFileError(f"Expected each key once in {source}, found one of {key.owner} with {before} too.")
