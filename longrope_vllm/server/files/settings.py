"""What a server keeps of its users' files, and where: the options of ``longrope serve``.

They travel as one attribute of vLLM's argument namespace. A server that was started without ``longrope serve`` keeps
files only where the environment variable ``LONGROPE_FILES`` names a directory: nothing is stored by surprise.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.extras import require
from longrope_vllm.server.files.amounts import format_seconds, format_size, parse_seconds, parse_size

ATTRIBUTE = "longrope_files"
"""Of vLLM's argument namespace: the ``FileSettings`` of the server, None where it keeps no files."""
VARIABLE = "LONGROPE_FILES"
"""Environment variable: directory for files of a server that was not started by ``longrope serve``."""
TEXTS_AT_ONCE = 2
"""HTML and PDF that one server reads at a time."""

_PACKAGES = ("pypdf", "python_multipart")


def default_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """``longrope-vllm/files`` in the user's cache directory."""
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "longrope-vllm" / "files"


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """Where files are kept, and how much of them. Sizes in bytes, times in seconds."""

    directory: Path = field(default_factory=default_directory)
    """On a local disk: SQLite's write-ahead log does not work on network file systems."""
    file_bytes: int = 512_000_000
    """Largest file."""
    owner_bytes: int = 8_000_000_000
    """Of all files of one key together, with the texts that were made of them."""
    owner_files: int = 1_000
    expire_s: int | None = 30 * 86_400
    """A file is gone so long after its upload, sooner if the client asked for that; None: never by itself."""
    text_bytes: int = 32_000_000
    """Longest text of one document, and of all documents in one request: about four times two million tokens."""
    text_s: int = 300
    """Longest time to make text of a document."""
    text_memory: int = 1 << 30
    """Most memory for that, for each of the ``TEXTS_AT_ONCE``."""

    @classmethod
    def from_arguments(cls, asked: argparse.Namespace) -> Self | None:
        """What the options say, None with ``--no-files``. Raises ``LongRopeError`` for a size or time that is none."""
        if asked.no_files:
            return None
        settings = cls()
        if asked.files is not None:
            settings = replace(settings, directory=Path(asked.files).expanduser())
        if asked.file_bytes is not None:
            settings = replace(settings, file_bytes=parse_size(asked.file_bytes, option="--file-bytes"))
        if asked.files_quota is not None:
            settings = replace(settings, owner_bytes=parse_size(asked.files_quota, option="--files-quota"))
        if asked.files_expire is not None:
            settings = replace(settings, expire_s=parse_seconds(asked.files_expire, option="--files-expire"))
        return settings

    def check(self) -> None:
        """Make the directory. Raises a ``LongRopeError`` unless it can be written and the packages are there."""
        for package in _PACKAGES:
            require(package, "http")
        remedy = "name another with --files, or keep none with --no-files"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UnsupportedError(
                f"Expected a directory for files, found {error.strerror} at {self.directory}: {remedy}."
            ) from None
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise UnsupportedError(f"Expected to write to {self.directory}, found that it is closed to us: {remedy}.")

    def describe(self) -> str:
        """One line for the start."""
        kept = "until deleted" if self.expire_s is None else f"for {format_seconds(self.expire_s)}"
        sizes = f"up to {format_size(self.file_bytes)} each, {format_size(self.owner_bytes)} a key"
        return f"{self.directory} ({sizes}, kept {kept})"


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope serve`` that say where uploaded files are kept, and how much of them."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--files", metavar="DIR", help=f"directory for uploaded files (default {default_directory()})")
    where.add_argument("--no-files", action="store_true", help="keep no files: /v1/files and file parts are refused")
    parser.add_argument("--file-bytes", metavar="SIZE", help="largest file (default 512MB)")
    parser.add_argument("--files-quota", metavar="SIZE", help="all files of one API key together (default 8GB)")
    parser.add_argument("--files-expire", metavar="TIME", help="files are gone after 30d (default), 12h, never")


def file_settings(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> FileSettings | None:
    """Settings of a server with vLLM's ``arguments``; None: it keeps no files."""
    if hasattr(arguments, ATTRIBUTE):
        settings: FileSettings | None = getattr(arguments, ATTRIBUTE)
        return settings
    directory = environ.get(VARIABLE)
    if not directory:
        return None
    settings = FileSettings(directory=Path(directory).expanduser())
    settings.check()
    return settings
