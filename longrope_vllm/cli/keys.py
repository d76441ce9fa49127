"""API keys of a server, in a file that holds only their hashes and that the server reads again when it changes.

    longrope keys add alice --file keys.toml --tokens-per-minute 2000000 --longest-prompt 128k
    longrope serve MODEL --keys keys.toml

A new key is printed once, and nowhere else. A name is an owner: the keys under it share limits, files and requests, so
rotate a key for the same person, and take a new name for another.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from longrope_vllm.lengths import format_length, parse_length
from longrope_vllm.server.doors.key_editing import add_key, remove_key, retire_keys, rotate_key
from longrope_vllm.server.doors.keys_file import Key, Limits, read_keys

ACTIONS = {
    "add": "a new name and its key",
    "rotate": "a second key for a name; its newest one goes on working",
    "retire": "only the newest key of a name works from now on",
    "remove": "no key of a name works from now on",
    "list": "names and limits",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``longrope keys``."""
    help_of = "; ".join(f"{action}: {line}" for action, line in ACTIONS.items())
    parser.add_argument("action", choices=list(ACTIONS), metavar="ACTION", help=help_of)
    parser.add_argument("name", nargs="?", metavar="NAME", help="whose key; none for list")
    parser.add_argument("--file", type=Path, default=Path("keys.toml"), help="the file (default keys.toml)")
    limits = parser.add_argument_group("limits of a new name, in each API server process (default: none)")
    limits.add_argument("--requests-per-minute", metavar="N", help="requests to the model")
    limits.add_argument("--tokens-per-minute", metavar="N", help="tokens of prompts and answers together")
    limits.add_argument("--longest-prompt", metavar="TOKENS", help="such as 128k")
    limits.add_argument("--concurrent-long", metavar="N", help="long requests at a time, see serve --long-request")
    limits.add_argument(
        "--admin", action="store_true", help="may change the server: adapters, caches, pauses, profiles"
    )


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Do the action and return 0."""
    asked = parser.parse_args(arguments)
    if (asked.name is None) != (asked.action == "list"):
        parser.error(f"{asked.action} takes {'no NAME' if asked.action == 'list' else 'a NAME'}")
    limits = _limits(asked)
    if asked.action != "add" and (asked.admin or limits != Limits()):
        parser.error(f"limits belong to a new name: edit {asked.file} to change those of an old one")
    path: Path = asked.file
    if asked.action == "add":
        print(add_key(path, asked.name, limits=limits, admin=asked.admin))
    elif asked.action == "rotate":
        print(rotate_key(path, asked.name))
    elif asked.action == "retire":
        retire_keys(path, asked.name)
    elif asked.action == "remove":
        remove_key(path, asked.name)
    else:
        for key in read_keys(path):
            print(_described(key))
    return 0


def _limits(asked: argparse.Namespace) -> Limits:
    stated = {limit.name: getattr(asked, limit.name) for limit in fields(Limits)}
    return Limits(**{name: parse_length(text) for name, text in stated.items() if text is not None})


def _described(key: Key) -> str:
    limits = [f"{name}={format_length(amount)}" for name, amount in asdict(key.limits).items() if amount is not None]
    rights = ["admin"] if key.admin else []
    return "  ".join([key.owner.removeprefix("key:"), f"keys={len(key.hashes)}", *rights, *limits])
