"""The options of ``longrope serve`` for files, and what a server without it does."""

import argparse
import os
import pickle
from pathlib import Path

import pytest

from longrope_vllm.cli.main import main
from longrope_vllm.errors import LongRopeError
from longrope_vllm.server.files.amounts import format_seconds, format_size, parse_seconds, parse_size
from longrope_vllm.server.files.settings import (
    ATTRIBUTE,
    FileSettings,
    add_file_options,
    default_directory,
    file_settings,
)


def asked(*options: str) -> FileSettings | None:
    parser = argparse.ArgumentParser()
    add_file_options(parser)
    return FileSettings.from_arguments(parser.parse_args(options))


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MB", 512_000_000), ("8GB", 8_000_000_000), ("1 kib", 1024), ("2GiB", 2 << 30), ("77", 77), ("7b", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, option="--file-bytes") == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("45s", 45), ("never", None)]
)
def test_times(text: str, seconds: int | None) -> None:
    assert parse_seconds(text, option="--files-expire") == seconds
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(512_000_000, "512 MB"), (8_000_000_000, "8 GB"), (1001, "1,001 bytes")])
def test_sizes_are_told_exactly(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize("text", ["", "0", "MB", "-1MB", "1.5GB", "5 apples", "1e9", "٣MB"])
def test_a_size_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(LongRopeError, match="Expected --files-quota to be a size such as 512MB or 8GB, found"):
        parse_size(text, option="--files-quota")


@pytest.mark.parametrize("text", ["", "0d", "30", "d", "forever"])
def test_a_time_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(LongRopeError, match="Expected --files-expire to be a time such as 30d"):
        parse_seconds(text, option="--files-expire")


def test_the_options_say_where_and_how_much(tmp_path: Path) -> None:
    assert asked() == FileSettings()
    assert asked("--no-files") is None
    options = ["--files", str(tmp_path), "--file-bytes", "1GB", "--files-quota", "2GB", "--files-expire", "never"]
    found = asked(*options)
    assert found == FileSettings(directory=tmp_path, file_bytes=1_000_000_000, owner_bytes=2_000_000_000, expire_s=None)
    assert found.describe() == f"{tmp_path} (up to 1 GB each, 2 GB a key, kept until deleted)"
    assert FileSettings().describe().endswith("(up to 512 MB each, 8 GB a key, kept for 30d)")
    assert pickle.loads(pickle.dumps(found)) == found  # vLLM hands it to other API servers


def test_the_default_directory_is_in_the_cache_of_the_user() -> None:
    assert default_directory({"XDG_CACHE_HOME": "/cache"}) == Path("/cache/longrope-vllm/files")
    assert default_directory({}) == Path.home() / ".cache/longrope-vllm/files"


def test_a_server_that_was_started_otherwise_keeps_files_only_where_the_variable_names_a_place(tmp_path: Path) -> None:
    assert file_settings(argparse.Namespace(), {}) is None
    assert file_settings(argparse.Namespace(), {"LONGROPE_FILES": ""}) is None
    found = file_settings(argparse.Namespace(), {"LONGROPE_FILES": str(tmp_path / "new")})
    assert found == FileSettings(directory=tmp_path / "new")
    assert (tmp_path / "new").is_dir()
    for stated in (None, FileSettings(directory=tmp_path)):
        namespace = argparse.Namespace(**{ATTRIBUTE: stated})
        assert file_settings(namespace, {"LONGROPE_FILES": str(tmp_path / "other")}) == stated


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--file-bytes", "many"], "Expected --file-bytes to be a size"),
        (["--files-quota", "0"], "Expected --files-quota to be a size"),
        (["--files-expire", "soon"], "Expected --files-expire to be a time"),
    ],
)
def test_a_bad_option_is_one_sentence_before_anything_is_loaded(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vllm", reason="serve checks the engine first")
    assert main(["serve", "no-such-model", *options]) == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert message.startswith(f"longrope serve: {expected}")


def test_a_directory_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LongRopeError, match=r"Expected a directory for files, found .* name another with --files"):
        FileSettings(directory=tmp_path / "file" / "under").check()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_directory_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LongRopeError, match="Expected to write to"):
        FileSettings(directory=tmp_path).check()
