"""``deploy/smoke.py`` as an operator runs it: a process of its own, without this project on its path."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "deploy" / "smoke.py"


@dataclass(frozen=True, kw_only=True)
class SmokeRun:
    """How it ended; ``lines`` by the name of the check, the result in front."""

    code: int
    lines: dict[str, str]
    output: str


def smoke(url: str, *options: str, key: str | None = None) -> SmokeRun:
    """Run it against ``url``; ``key`` is given in the environment."""
    environment = {} if key is None else {"VLLM_API_KEY": key}
    command = [sys.executable, "-E", "-s", "-W", "error", str(SCRIPT), url, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stderr == "" or done.returncode == 2, done.stderr
    split = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return SmokeRun(
        code=done.returncode,
        lines={parts[1]: f"{parts[0]} {parts[2]}" for parts in split if len(parts) == 3},
        output=done.stdout + done.stderr,
    )
