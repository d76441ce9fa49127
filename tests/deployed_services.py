"""deploy/compose and deploy/systemd as objects, with the values that stand beside them."""

import re
import shlex
from typing import Any

import yaml

from manifests import DEPLOY

COMPOSE = DEPLOY / "compose"
UNITS = DEPLOY / "systemd"
VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


def variables() -> dict[str, str]:
    """Those of .env.example, quotes taken off."""
    lines = [line for line in (COMPOSE / ".env.example").read_text().splitlines() if not line.startswith("#")]
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def composed() -> dict[str, Any]:
    """The services of compose.yaml, with the values of .env.example."""
    known = variables()
    text = VARIABLE.sub(lambda found: known.get(found[1], found[3]), (COMPOSE / "compose.yaml").read_text())
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


def unit() -> dict[str, list[str]]:
    """Settings of longrope.service and of its plan, by name."""
    text = (UNITS / "longrope.service").read_text() + (UNITS / "longrope.service.d" / "plan.conf").read_text()
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", text.replace("\\\n", " "), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def command_of_unit() -> list[str]:
    """The command that systemd makes of the unit, its variables replaced."""
    words = [word for line in unit()["Environment"] for word in shlex.split(line)]
    known = dict(word.split("=", 1) for word in words)
    (command,) = unit()["ExecStart"]
    return shlex.split(re.sub(r"\$\{?(\w+)\}?", lambda found: known[found[1]], command))
