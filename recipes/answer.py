"""One answer from a real server, and its end.

    python recipes/answer.py MODEL FACTORS ANSWER [options of longrope serve]

Serves MODEL with FACTORS on a free port, asks for a completion and writes it to ANSWER, a file of JSON that is whole
or not there.
"""

import json
import sys
import tempfile
import urllib.request
from pathlib import Path

from longrope_vllm.atomic import write_atomically
from longrope_vllm.server.running import running


def main(model: str, factors: str, answer: str, *options: str) -> None:
    """Start, ask, write, end."""
    asked = {"model": model, "prompt": "def ", "max_tokens": 32, "temperature": 0}
    with tempfile.TemporaryDirectory() as scratch:
        command = ["serve", model, "--factors", factors, *options]
        with running("longrope_vllm.cli.main", command, environment={}, log=Path(scratch) / "log") as server:
            request = urllib.request.Request(
                f"{server.url}/v1/completions",
                data=json.dumps(asked).encode(),
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request) as response:
                found = response.read().decode()
    print(found)
    write_atomically(Path(answer), found + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
