"""Real HTTP clients against a running ``longrope serve``, directly and behind nginx with the documented configuration.

    python benchmarks/http_clients.py http://localhost:8000 --model NAME --tokenizer FOLDER [--guidellm PROGRAM]
        [--genai-bench PROGRAM] --out benchmarks/results/http_clients_cpu_DATE.md

Runs what ``http_clients_table.py`` lists, writes the page with command, version and telling lines of each, and stops at
the first client that fails. A client whose program is not given is left out, and the page says so. The prompts are new
in each run, so that nothing is in the prefix cache. Wants ``tests`` on ``PYTHONPATH`` (``nginx_site.py``).
"""

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from http_clients_table import CLIENTS, Client
from nginx_site import behind_nginx, nginx_program
from report import provenance

NGINX_PORT = 8188
LIMIT_S = 900
WIDEST = 330
SENTENCE = "Line {}: the keeper counted the lamps, wrote the weather down and closed the door.\n"


@dataclass(frozen=True)
class Line:
    """One line of output, ``after`` so many seconds."""

    after: float
    text: str


def materials(folder: Path, model: str) -> None:
    """What the commands read: a document, a request that holds it, and one that nobody can answer."""
    text = f"Ledger {secrets.token_hex(4)}\n" + "".join(SENTENCE.format(number) for number in range(1, 431))
    (folder / "ledger.txt").write_text(text)
    asked = {"model": model, "max_tokens": 8, "stream": True, "return_progress": True}
    asked |= {"stream_options": {"include_usage": True}}
    (folder / "chat.json").write_text(json.dumps(asked | {"messages": [{"role": "user", "content": text}]}))
    text = "The sea was calm and the lamp was lit. " * 692_400
    (folder / "long.json").write_text(json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}))


def run(command: str, folder: Path, variables: Mapping[str, str]) -> list[Line]:
    """The output of a script, errors included. Raises ``RuntimeError`` with it if the script fails."""
    start = time.monotonic()
    process = subprocess.Popen(
        ["timeout", str(LIMIT_S), "bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "PYTHONWARNINGS": "ignore", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = [Line(time.monotonic() - start, line.rstrip()) for line in process.stdout]
    if process.wait() != 0:
        raise RuntimeError(f"exit code {process.returncode}\n" + "\n".join(line.text for line in lines[-60:]))
    return lines


def telling(client: Client, lines: list[Line]) -> list[Line]:
    """The lines that prove it. Raises ``RuntimeError`` if one of them is missing."""
    missing = [wanted for wanted in client.proof if not any(re.search(wanted, line.text) for line in lines)]
    if missing:
        raise RuntimeError(f"nothing like {missing} in\n" + "\n".join(line.text for line in lines[-60:]))
    return [line for line in lines if any(re.search(wanted, line.text) for wanted in client.proof)]


def shown(line: Line, names: Mapping[str, str], *, clocked: bool) -> str:
    """As it stands on the page: paths by their names, long lines cut in the middle."""
    text = line.text
    for name, value in sorted(names.items(), key=lambda item: -len(item[1])):
        if "/" in value and name != "URL":
            text = text.replace(value, name)
    if len(text) > WIDEST:
        text = f"{text[: WIDEST // 3]} [...] {text[-WIDEST * 2 // 3 :]}"
    return f"{line.after:6.2f} s  {text}" if clocked else text


def section(client: Client, variables: Mapping[str, str]) -> str:
    """Runs one client; its part of the page."""
    print(client.name, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        materials(folder, variables["MODEL"])
        version = run(client.version, folder, variables)[-1].text
        names = {**variables, ".": place}
        try:
            proof = telling(client, run(client.command, folder, variables))
        except RuntimeError as error:
            raise SystemExit(f"{client.name} ({version}) failed: {error}") from error
    lines = "\n".join(shown(line, names, clocked=client.clocked) for line in proof)
    return f"## {client.name}\n\n{version}\n\n```bash\n{client.command}\n```\n\n```text\n{lines}\n```\n"


def main() -> None:
    """Run every client, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--guidellm")
    parser.add_argument("--genai-bench")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    variables = {"URL": asked.url.rstrip("/"), "MODEL": asked.model, "PYTHON": sys.executable}
    variables["TOKENIZER"] = str(asked.tokenizer.expanduser().resolve())
    variables |= {"GUIDELLM": asked.guidellm or "", "GENAI_BENCH": asked.genai_bench or ""}
    sections, left_out = [], []
    with tempfile.TemporaryDirectory() as folder:
        for client in CLIENTS:
            if (client.through_nginx and nginx_program() is None) or any(
                f"${name}" in client.command and not variables[name] for name in ("GUIDELLM", "GENAI_BENCH")
            ):
                left_out.append(client.name)
            elif client.through_nginx:
                with behind_nginx(Path(folder), NGINX_PORT, urlsplit(asked.url).netloc) as url:
                    sections.append(section(client, {**variables, "URL": url}))
            else:
                sections.append(section(client, variables))
    command = f"python benchmarks/http_clients.py URL --model {asked.model} --tokenizer FOLDER"
    nginx = subprocess.run(
        [nginx_program() or "true", "-v"], capture_output=True, text=True, check=False
    ).stderr.strip()
    heading = [
        "# HTTP clients against `longrope serve`, on the CPU",
        "",
        "Each ran against one server and proved what it got; the lines are those of its output that say so, cut where",
        "they are long. A time before a line is when it arrived, in seconds from the start of the command;",
        "they show that a stream is not held back, and measure nothing.",
        "",
        "- server: `longrope serve MODEL --tiers 16k:yarn --dtype bfloat16 --enforce-eager`, SmolLM2-135M-Instruct,",
        "  tiers up to 8,192 (its own rope) and 16,384 tokens.",
        f"- proxy: {nginx or 'none'}, with [docs/nginx.conf](../../docs/nginx.conf) but for address and folders.",
        f"- left out: {', '.join(left_out) or 'none'}.",
        provenance(command),
        "",
    ]
    asked.out.write_text("\n".join(heading) + "\n" + "\n".join(sections))


if __name__ == "__main__":
    main()
