"""The examples of docs/http.md, run as they stand there against a real server; only address and ids are replaced."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from longrope_vllm.server.running import running
from made_pdf import made_pdf
from tiny_models import byte_tokenizer, tiny_llama

pytestmark = pytest.mark.vllm

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/http.md"
EXAMPLES = re.findall(r"^```(console|bash|python)\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
OPTIONS = ["--tiers", "4k:yarn", "--enforce-eager", "--dtype", "float32", "--served-model-name", "NAME"]
SHELL = f"""
set -eo pipefail
curl() {{
    for attempt in 1 2 3 4 5; do
        answer=$(command curl -sS "$@")
        [[ $answer == *'"error"'* ]] && sleep 1 || break
    done
    echo "$answer"
    [[ $answer != *'"error"'* ]]
}}
longrope() {{ {sys.executable} -m longrope_vllm.cli.main "$@" --url ADDRESS --max-tokens 4; }}
pdftotext() {{ cat notes.md; }}
"""
"""An answer with an error ends an example, after a while: one asks for a request that another is still sending. The
tool that reads PDFs need not be installed."""
PYTHON = """
import openai
client = openai.OpenAI(base_url="http://localhost:8000/v1", api_key="none")
document = "Nothing changed."
messages = [{"role": "user", "content": document}]
"""
"""What an example without imports has from those before it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address, and the folder that the examples run in."""
    folder = tmp_path_factory.mktemp("examples")
    checkpoint = byte_tokenizer(tiny_llama(folder / "checkpoint"))
    options = ["serve", str(checkpoint), *OPTIONS, "--files", str(folder / "files")]
    (folder / "book.txt").write_text("Call me Ishmael. Some years ago.\n")
    (folder / "notes.md").write_text("# Notes\n\nNothing changed.\n")
    (folder / "report.pdf").write_bytes(made_pdf(["Nothing changed."]))
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with running("longrope_vllm.cli.main", options, environment=environment, log=folder / "log") as started:
        yield started.url, folder


@pytest.mark.parametrize("example", range(len(EXAMPLES)))
def test_the_example_does_what_it_says(example: int, server: tuple[str, Path]) -> None:
    address, folder = server
    language, text = EXAMPLES[example]
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        book = client.files.create(file=folder / "book.txt", purpose="user_data")
    if "import" not in text and language == "python":
        text = PYTHON + text
    if text.startswith("$ "):  # what was printed stands below what was typed
        text = "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)", text, re.M))
    text = re.sub(r"file-[0-9a-f]{32}", book.id, text)
    text = text.replace("http://localhost:8000", address).replace("localhost:8000", address)
    command = [sys.executable, "-c", text]
    if language != "python":
        command = ["bash", "-c", SHELL.replace("ADDRESS", address) + text + "\nwait"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout or language == "python"
