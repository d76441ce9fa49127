"""A prompt of a million tokens through the real server, with a number hidden in it and short requests beside it.

    python benchmarks/gpu/million.py MODEL --texts TEXTS --length 1M --out FOLDER [options of longrope serve]

One ``longrope serve`` with the tier ``LENGTH:yarn``. The prompt is as many tokens of the held-out texts as fit, over
and over, a fact at each of five depths, and a question about the middle one. Written to ``FOLDER/million.json``, also
when it is interrupted, and to ``million.md`` as a table: the time to the first token beside what attention and the
other products of the prefill take at the rate of one large product measured before; progress as the client saw it; the
tier that served it; memory of the device and of the cache, beside the bytes that a token has in it; and the time to the
first token of short requests sent meanwhile. The answer of a model that was never trained at this length is noted, and
nothing is claimed of it.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import openai
import torch
from transformers import AutoTokenizer

from longrope_vllm.geometry import read_config
from longrope_vllm.lengths import format_length, parse_length
from longrope_vllm.plan.prefill_time import prefill_flops
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.server.running import running

sys.path.insert(0, str(Path(__file__).parents[1]))
from report import command_line, provenance

ANSWER = 16
"""Tokens of an answer."""
NUMBERS = (48213, 90175, 26498, 71360, 53942)
CITIES = ("Lisbon", "Nairobi", "Toronto", "Oslo", "Lima")
SHORT = 200
"""Tokens of a short request."""
PATIENCE = 7200.0
_CACHE_TOKENS = re.compile(r"[CG]PU KV cache size: ([\d,]+) tokens")


@dataclass(kw_only=True)
class Seen:
    """What the client saw, in seconds since it asked."""

    first_token: float = 0.0
    progress: list[tuple[float, int]] = field(default_factory=list)
    """(when, tokens done)."""
    text: str = ""
    prompt_tokens: int = 0
    longrope: dict[str, Any] | None = None


@dataclass(kw_only=True)
class Run:
    """What was measured so far."""

    seen: Seen = field(default_factory=Seen)
    alone: list[float] = field(default_factory=list)
    """Seconds to the first token of short requests, and beside the long one."""
    beside: list[float] = field(default_factory=list)
    memory: int = 0
    """Bytes in use on the device beyond those before the server, at most."""
    whole: bool = False


def matmul_rate(device: str, size: int) -> float:
    """FLOP/s of one product of ``size`` x ``size`` in bfloat16, the best of ten."""
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))

    def once() -> float:
        started = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    return float(2 * size**3 / min(once() for _ in range(10)))


def prompt(tokenizer: Any, texts: Path, length: int) -> list[int]:
    """``length`` token ids."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    facts = [
        ids(f"\n\nThe secret code of {city} is {number}.\n\n") for city, number in zip(CITIES, NUMBERS, strict=True)
    ]
    middle = CITIES[len(CITIES) // 2]
    question = ids(f"\n\nAs was said above, the secret code of {middle} is")
    wanted = length - len(question) - sum(map(len, facts))
    straw: list[int] = []
    for path in sorted(texts.glob("held_out/*.txt")):
        straw += ids(path.read_text(encoding="utf-8")[: 8 * wanted])  # no token has more characters in the mean
    straw = (straw * (wanted // len(straw) + 1))[:wanted]
    found: list[int] = []
    for place, fact in enumerate(facts):
        found += [*straw[wanted * place // len(facts) : wanted * (place + 1) // len(facts)], *fact]
    return [*found, *question]


async def ask(client: openai.AsyncOpenAI, model: str, tokens: Sequence[int], max_tokens: int, seen: Seen) -> None:
    """A completion of ``tokens``, streamed into ``seen``."""
    started = time.perf_counter()
    events = await client.completions.create(
        model=model,
        prompt=list(tokens),
        max_tokens=max_tokens,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"return_progress": True, "ignore_eos": True},
    )
    async for event in events:
        if progress := getattr(event, "prompt_progress", None):
            seen.progress.append((time.perf_counter() - started, progress["processed"]))
        if event.choices:  # also where its text waits for the rest of a character
            seen.first_token = seen.first_token or time.perf_counter() - started
            seen.text += event.choices[0].text
        if event.usage:
            seen.prompt_tokens = event.usage.prompt_tokens
        seen.longrope = getattr(event, "longrope", None) or seen.longrope


async def measure(url: str, model: str, tokens: Sequence[int], run: Run) -> None:
    """The long request; first tokens of short ones alone and beside it; memory of the device while it runs."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    async def short(number: int) -> float:
        at = (number * SHORT) % max(1, len(tokens) - SHORT)
        seen = Seen()
        await ask(client, model, tokens[at : at + SHORT], 1, seen)
        return seen.first_token

    await short(0)
    run.alone = [await short(number) for number in range(1, 5)]
    long = asyncio.create_task(ask(client, model, tokens, ANSWER, run.seen))
    while not long.done():
        await asyncio.wait([long], timeout=1)
        if not long.done():
            run.beside.append(await short(len(run.beside) + 100))
            run.memory = max(run.memory, used_memory())
    await long
    run.whole = True


def used_memory() -> int:
    """Bytes in use on the first GPU; 0 without one."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]) * 2**20
    except (OSError, subprocess.CalledProcessError):
        return 0


def page(found: dict[str, Any], command: str) -> str:
    """The results page."""
    seen = found["seen"]
    rows = [
        ("tokens of the prompt, as the server counted", f"{seen['prompt_tokens']:,}"),
        ("served by", json.dumps(seen["longrope"])),
        ("time to first token", f"{seen['first_token']:.1f} s"),
        (
            "its products at the measured rate",
            f"{found['limit_seconds']:.1f} s at {found['matmul_rate'] / 1e12:.1f} TFLOP/s",
        ),
        ("time over that", f"{seen['first_token'] / found['limit_seconds']:.2f} times"),
        ("progress events", f"{len(seen['progress'])}"),
        ("cache", f"{found['cache_bytes'] / 2**30:.2f} GiB for the prompt; room for {found['cache_tokens']:,} tokens"),
        (
            "memory of the device, at most, beyond what was in use",
            f"{found['memory'] / 2**30:.1f} GiB" if found["memory"] else "no device",
        ),
        ("first token of a short request, alone", f"{statistics.median(found['alone']):.3f} s"),
        ("beside the long one, median and worst", _spread(found["beside"])),
        ("answer", repr(seen["text"])),
        ("the number that was asked for", "found" if found["correct"] else "not found"),
    ]
    lines = [f"# A prompt of {format_length(found['length'])} tokens", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value.replace('|', '/')} |" for name, value in rows]
    return "\n".join([*lines, "", provenance(command, "transformers", "openai")]) + "\n"


def _spread(times: Sequence[float]) -> str:
    if not times:
        return "none was sent"
    return f"{statistics.median(times):.3f} s, {max(times):.3f} s, of {len(times)}"


def main() -> None:
    """Serve, ask, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--length", type=parse_length, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked, options = parser.parse_known_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 2048)
    rate = matmul_rate(device, size)
    tokens = prompt(AutoTokenizer.from_pretrained(asked.model), asked.texts, asked.length - ANSWER)
    log = asked.out / "server.log"
    serve = [
        "serve",
        str(asked.model),
        "--tiers",
        f"{asked.length}:yarn",
        "--max-model-len",
        str(asked.length),
        *options,
    ]
    if device == "cuda":
        torch.cuda.empty_cache()  # the server needs it
    before, run = used_memory(), Run()
    with running("longrope_vllm.cli.main", serve, environment={}, log=log, within=900) as server:
        try:
            asyncio.run(measure(server.url, str(asked.model), tokens, run))
        finally:
            run.memory = max(0, run.memory - before)
            (asked.out / "million.json").write_text(json.dumps(asdict(run), indent=2) + "\n")
    model = ServedModel.of(read_config(asked.model), asked.model)
    room = [int(number.replace(",", "")) for number in _CACHE_TOKENS.findall(log.read_text(errors="replace"))]
    found = asdict(run) | {
        "length": asked.length,
        "matmul_rate": rate,
        "limit_seconds": prefill_flops(model, len(tokens)) / rate,
        "cache_bytes": 2 * model.layers * model.kv_heads * model.head * 2 * len(tokens),
        "cache_tokens": max(room, default=0),
        "correct": str(NUMBERS[len(NUMBERS) // 2]) in run.seen.text,
    }
    (asked.out / "million.json").write_text(json.dumps(found, indent=2) + "\n")
    (asked.out / "million.md").write_text(page(found, command_line("gpu/million.py", sys.argv[1:])))


if __name__ == "__main__":
    main()
