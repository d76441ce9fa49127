"""A book over HTTP: uploaded once, counted, refused whole with its length, and asked about in its first part.

    python benchmarks/bench_book.py BOOK.txt --question TEXT --out benchmarks/results/book_cpu_DATE.md [--part BYTES]

One server: ``longrope serve``, the demo model, its own rope up to 8k tokens and YaRN up to 32k. In: a text in UTF-8
that is longer than the server's context; Debian's ``bible-kjv-text`` prints one of 4.4 MB. Out: what the server
answered, with times, as a page. Ends with an error where an answer is not what it has to be. About 5 minutes on two CPU
cores.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from longrope_vllm.demo.model import demo_model
from longrope_vllm.server.running import running
from report import command_line, provenance

LONGEST = 32_768
OPTIONS = ("--tiers", f"{LONGEST}:yarn", "--dtype", "bfloat16", "--enforce-eager", "--served-model-name", "smollm2")
PATIENCE = 1800.0
"""Seconds a client waits."""
ANSWER = 24
"""Tokens of an answer."""


def main() -> None:
    """Serve, upload, ask, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("book", type=Path)
    parser.add_argument("--question", required=True)
    parser.add_argument("--part", type=int, default=60_000, help="bytes of the first part (60000)")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    text = asked.book.read_bytes()
    model = demo_model(lambda line: print(line, file=sys.stderr))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "part.txt").write_bytes(text[: text.rindex(b"\n", 0, asked.part) + 1])
        options = ("serve", str(model), *OPTIONS, "--files", str(folder / "files"))
        environment = {"VLLM_CPU_KVCACHE_SPACE": "2"}
        with running("longrope_vllm.cli.main", options, environment=environment, log=folder / "log") as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)
            rows = told(client, asked.book, folder / "part.txt", asked.question)
    command = command_line("bench_book.py", ["BOOK.txt", *sys.argv[2:]])
    asked.out.write_text(page(rows, len(text), command))


def told(client: openai.OpenAI, book: Path, part: Path, question: str) -> list[tuple[str, float, str]]:
    """What was done, in how many seconds, and what came back."""
    rows = []

    def step(name: str, do: Callable[[], Any], say: Callable[[Any], str]) -> Any:
        started = time.perf_counter()
        answer = do()
        rows.append((name, time.perf_counter() - started, say(answer)))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
        return answer

    def upload(path: Path) -> openai.types.FileObject:
        return client.files.create(file=path, purpose="user_data")

    def said(file: Any) -> str:
        return f"{file.bytes:,} bytes, {file.tokens:,} tokens, tier {file.longrope and file.longrope['tier']}"

    whole = step("upload of the book", lambda: upload(book), said)
    counted = step(
        "a question on it, counted",
        lambda: client.responses.input_tokens.count(model="smollm2", input=_about(whole, question)),
        lambda answer: f"{answer.input_tokens:,} tokens",
    )
    refusal = step("the question, asked", lambda: _refused(client, whole, question), lambda error: error.message)
    first = step("upload of its first part", lambda: upload(part), said)
    answers = [
        step(name, lambda asked=asked: _answered(client, first, asked), _answer)
        for name, asked in (("a question on that", question), ("the same again", question), ("another", "Who speaks?"))
    ]
    if refusal.code != "context_length_exceeded" or refusal.body["prompt_tokens"] != counted.input_tokens:
        raise SystemExit(f"Expected a refusal with {counted.input_tokens} tokens, found {refusal.body}.")
    if not all(answer.usage.input_tokens_details.cached_tokens > first.tokens // 2 for answer in answers[1:]):
        raise SystemExit("Expected the first part from the prefix cache in the second question, found it computed.")
    return rows


def _about(file: openai.types.FileObject, question: str) -> Any:
    content = [{"type": "input_file", "file_id": file.id}, {"type": "input_text", "text": question}]
    return [{"role": "user", "content": content}]


def _answered(client: openai.OpenAI, file: openai.types.FileObject, question: str) -> Any:
    return client.responses.create(
        model="smollm2", input=_about(file, question), max_output_tokens=ANSWER, temperature=0
    )


def _refused(client: openai.OpenAI, file: openai.types.FileObject, question: str) -> Any:
    try:
        answer = _answered(client, file, question)
    except openai.BadRequestError as error:
        return error
    raise SystemExit(f"Expected a refusal, found the answer {answer.output_text!r}.")


def _answer(answer: Any) -> str:
    usage = answer.usage
    cached = usage.input_tokens_details.cached_tokens
    return f"{usage.input_tokens:,} tokens, {cached:,} of them cached: {answer.output_text!r}"


def page(rows: list[tuple[str, float, str]], size: int, command: str) -> str:
    """The results page."""
    lines = [
        f"# A book of {size / 1e6:.1f} MB over HTTP, on the CPU",
        "",
        "| done | s | came back |",
        "|---|---:|---|",
        *(f"| {name} | {seconds:.1f} | {answer.replace('|', '/')} |" for name, seconds, answer in rows),
        "",
        f"- SmolLM2-135M-Instruct, its own rope up to 8,192 tokens, YaRN up to {LONGEST:,}; openai SDK, Responses API.",
        "- answers are those of a model of 135M parameters; that they are right is not claimed. The same question may",
        "  get another word at temperature 0: what the cache has is not computed again, and bfloat16 sums by chunks.",
        provenance(command, "openai"),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
