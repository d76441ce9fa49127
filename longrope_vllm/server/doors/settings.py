"""The options of ``longrope serve`` that say who may come in, and with how much.

They travel as one attribute of vLLM's argument namespace, and the middleware as one of vLLM's ``--middleware``. A
server that was started by ``vllm serve`` gets the same with ``--middleware longrope_vllm.server.doors.doors.Doors``
and, for a file of keys, the environment variable ``LONGROPE_KEYS``.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from longrope_vllm.errors import LongRopeError, UnsupportedError
from longrope_vllm.lengths import parse_length
from longrope_vllm.server import endpoint_shim
from longrope_vllm.server.doors.keyring import command_line_keys
from longrope_vllm.server.doors.keys_file import Key, read_keys
from longrope_vllm.server.files.amounts import parse_seconds, parse_size
from longrope_vllm.server.files.settings import FileSettings

ATTRIBUTE = "longrope_doors"
"""Of vLLM's argument namespace: the ``DoorSettings`` of the server."""
VARIABLE = "LONGROPE_KEYS"
"""Environment variable: file of keys of a server that was not started by ``longrope serve``."""
MIDDLEWARE = "longrope_vllm.server.doors.doors.Doors"
LONG_REQUEST = 8192
"""Tokens of a prompt that is not long yet, on a server without tiers."""

Metrics = Literal["open", "key", "off"]
METRICS: tuple[Metrics, ...] = get_args(Metrics)


@dataclass(frozen=True, kw_only=True)
class DoorSettings:
    """Sizes in bytes, times in seconds."""

    keys: Path | None = None
    api_keys: tuple[Key, ...] = field(default=(), repr=False)
    """Those of ``--api-key``."""
    metrics: Metrics | None = None
    """None: open where no key is asked for, else for every key."""
    body_bytes: int = 64_000_000
    """Largest body; an upload to ``/v1/files`` may have ``upload_bytes``."""
    upload_bytes: int = FileSettings.file_bytes
    body_s: float = 30.0
    """Longest silence within a body, and how long a body may take before its pace counts."""
    body_pace: int = 10_000
    """Bytes a second that a body has to come with on the whole, from then on."""
    json_depth: int = 100
    header_bytes: int = 64_000
    """All names and values of the headers, and the address."""
    long_request: int | None = None
    """Tokens of a prompt that is not long yet; None: as long as the first tier, or ``LONG_REQUEST``."""

    @classmethod
    def from_arguments(cls, asked: argparse.Namespace, *, api_keys: Sequence[str], files: FileSettings | None) -> Self:
        """What the options say; ``api_keys`` are vLLM's. Raises ``LongRopeError`` for what is none, and a bad file."""
        settings = cls(api_keys=command_line_keys(api_keys), metrics=asked.metrics)
        if files is not None:
            settings = replace(settings, upload_bytes=files.file_bytes)
        if asked.keys is not None:
            settings = replace(settings, keys=Path(asked.keys).expanduser().absolute())
        if asked.max_body_size is not None:
            settings = replace(settings, body_bytes=parse_size(asked.max_body_size, option="--max-body-size"))
        if asked.body_deadline is not None:
            seconds = parse_seconds(asked.body_deadline, option="--body-deadline")
            settings = replace(settings, body_s=float("inf") if seconds is None else float(seconds))
        if asked.max_header_size is not None:
            settings = replace(settings, header_bytes=parse_size(asked.max_header_size, option="--max-header-size"))
        if asked.max_json_depth is not None:
            settings = replace(settings, json_depth=_depth(asked.max_json_depth))
        if asked.long_request is not None:
            settings = replace(settings, long_request=parse_length(asked.long_request))
        settings.check()
        return settings

    @property
    def is_open(self) -> bool:
        """True if no key is asked for."""
        return self.keys is None and not self.api_keys

    def check(self) -> None:
        """Read the file of keys. Raises ``LongRopeError`` if it cannot be used, or nothing here would hold it."""
        if self.metrics == "key" and self.is_open:
            raise LongRopeError("Expected keys beside --metrics key, found none: add --keys FILE or --api-key KEY.")
        if self.keys is None:
            return
        read_keys(self.keys)
        if endpoint_shim.is_needed():
            raise UnsupportedError("Expected vLLM 0.27 or later beside --keys, found an older one: use --api-key.")
        if os.environ.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0"):
            raise UnsupportedError(
                "Expected vLLM's Python front end beside --keys, found VLLM_USE_RUST_FRONTEND: unset the variable."
            )

    def install(self, arguments: argparse.Namespace) -> None:
        """Let the server that is started with vLLM's ``arguments`` keep to these settings.

        With a file of keys, the keys of ``--api-key`` are ours to check: vLLM would refuse those of the file. Raises
        ``UnsupportedError`` where requests would come in beside the door.
        """
        if self.keys is not None and getattr(arguments, "grpc", False):
            raise UnsupportedError("Expected HTTP alone beside --keys, found --grpc, which asks for no key: drop it.")
        setattr(arguments, ATTRIBUTE, self)
        arguments.middleware = [*arguments.middleware, MIDDLEWARE]
        if self.keys is not None:
            arguments.api_key = None
            os.environ.pop("VLLM_API_KEY", None)

    def describe(self) -> str:
        """One line for the start."""
        if self.is_open:
            return "none: everybody who reaches the port is served, and may change the server"
        owners = 0 if self.keys is None else len(read_keys(self.keys))
        of_file = (
            []
            if self.keys is None
            else [f"{owners} {'name' if owners == 1 else 'names'} in {self.keys}, read again when it changes"]
        )
        of_options = [f"{len(self.api_keys)} by --api-key"] if self.api_keys else []
        return "; ".join([*of_file, *of_options])


def add_door_options(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope serve`` that say who may come in, and with how much."""
    parser.add_argument("--keys", metavar="FILE", help="file of API keys with their limits: longrope keys add NAME")
    parser.add_argument("--metrics", choices=METRICS, help="who reads /metrics (default: open without keys, else key)")
    parser.add_argument("--max-body-size", metavar="SIZE", help="largest body but for /v1/files (default 64MB)")
    parser.add_argument(
        "--body-deadline", metavar="TIME", help="longest silence within a body (default 30s), then 10 kB/s on the whole"
    )
    parser.add_argument("--max-json-depth", metavar="N", help="nesting of JSON (default 100)")
    parser.add_argument("--max-header-size", metavar="SIZE", help="all headers of a request (default 64kB)")
    parser.add_argument(
        "--long-request", metavar="TOKENS", help="a longer prompt counts as long for a key (default: the first tier)"
    )


def door_settings(arguments: Any, environ: Mapping[str, str] = os.environ) -> DoorSettings:
    """Settings of a server with vLLM's ``arguments``. Raises ``LongRopeError`` for a file of keys that is none."""
    settings: DoorSettings | None = getattr(arguments, ATTRIBUTE, None)
    if settings is not None:
        return settings
    path = environ.get(VARIABLE)
    keys = Path(path).expanduser() if path else None
    found = DoorSettings(api_keys=command_line_keys(api_keys_of(arguments, environ)), keys=keys)
    found.check()
    return found


def api_keys_of(arguments: Any, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The keys that vLLM's own ``arguments`` ask for, or its environment variable."""
    return [key for key in (arguments.api_key or [environ.get("VLLM_API_KEY")]) if key]


def _depth(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 10_000:
        raise LongRopeError(f"Expected --max-json-depth to be a number from 1 to 10000, found {text!r}.")
    return int(text)
