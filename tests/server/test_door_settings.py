"""What the options of ``longrope serve`` become, and what is refused before anything starts."""

import argparse
from pathlib import Path

import pytest

from longrope_vllm.errors import LongRopeError
from longrope_vllm.server.doors.key_editing import add_key
from longrope_vllm.server.doors.keys_file import Limits
from longrope_vllm.server.doors.settings import (
    ATTRIBUTE,
    MIDDLEWARE,
    VARIABLE,
    DoorSettings,
    add_door_options,
    door_settings,
)
from longrope_vllm.server.files.settings import FileSettings


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    add_key(path, "alice", limits=Limits(), admin=False)
    return path


def asked(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_door_options(parser)
    return parser.parse_args(options)


def settings_of(*options: str, api_keys: tuple[str, ...] = ()) -> DoorSettings:
    return DoorSettings.from_arguments(asked(*options), api_keys=api_keys, files=FileSettings(file_bytes=7))


def test_the_options_say_sizes_times_and_tokens(keys: Path) -> None:
    options = ["--max-body-size", "2MB", "--body-deadline", "1m", "--max-json-depth", "9", "--max-header-size", "8kB"]
    found = settings_of(*options, "--long-request", "32k", "--keys", str(keys), "--metrics", "off")
    assert found == DoorSettings(
        keys=keys,
        metrics="off",
        body_bytes=2_000_000,
        upload_bytes=7,
        body_s=60.0,
        json_depth=9,
        header_bytes=8_000,
        long_request=32_768,
    )
    assert settings_of("--body-deadline", "never").body_s == float("inf")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-body-size", "large"], "--max-body-size to be a size"),
        (["--max-json-depth", "0"], "--max-json-depth to be a number"),
        (["--long-request", "far"], "a length in tokens"),
        (["--metrics", "key"], "keys beside --metrics key"),
        (["--keys", "/nowhere/keys.toml"], "longrope keys add NAME"),
    ],
)
def test_what_is_none_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(LongRopeError, match=said):
        settings_of(*options)


def test_the_rust_front_end_and_grpc_have_no_such_door(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings_of("--keys", str(keys))
    with pytest.raises(LongRopeError, match="--grpc"):
        found.install(argparse.Namespace(middleware=[], api_key=None, grpc=True))
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(LongRopeError, match="VLLM_USE_RUST_FRONTEND"):
        settings_of("--keys", str(keys))


def test_the_door_stands_outside_of_every_other_middleware_and_takes_the_keys_over(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    found = settings_of("--keys", str(keys), api_keys=("secret",))
    arguments = argparse.Namespace(middleware=["their.own"], api_key=["secret"])
    found.install(arguments)
    assert arguments.middleware == ["their.own", MIDDLEWARE]  # vLLM puts the last one outermost
    assert arguments.api_key is None
    assert door_settings(arguments) is getattr(arguments, ATTRIBUTE)
    assert len(found.api_keys) == 1
    assert "secret" not in repr(found)


def test_without_a_file_the_keys_stay_with_vllm_as_well() -> None:
    arguments = argparse.Namespace(middleware=[], api_key=["secret"])
    settings_of(api_keys=("secret",)).install(arguments)
    assert arguments.api_key == ["secret"]


def test_a_server_of_vllm_serve_is_told_by_the_environment(keys: Path) -> None:
    arguments = argparse.Namespace(api_key=None)
    found = door_settings(arguments, {VARIABLE: str(keys), "VLLM_API_KEY": "secret"})
    assert (found.keys, len(found.api_keys)) == (keys, 1)
    assert door_settings(arguments, {}).is_open


def test_the_start_says_who_is_served(keys: Path) -> None:
    assert "everybody who reaches the port is served" in settings_of().describe()
    assert settings_of("--keys", str(keys)).describe().startswith(f"1 name in {keys}")
    assert settings_of(api_keys=("a", "b")).describe() == "2 by --api-key"
