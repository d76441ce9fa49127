"""Serving over HTTP: throughput, time to first token and time between tokens of the plugin against stock vLLM.

    python benchmarks/bench_serving.py --out benchmarks/results/serving_cpu_DATE.md [--window N] [options of vLLM]

Three servers: ``longrope serve`` and stock vLLM on the same longrope checkpoint (the demo model's weights, two tiers),
and stock vLLM on the same weights with a plain rope, which is the least that any server has to do. All stay up and
take turns, in random order; a round's requests are the same for all and new in each round. Two starts of the same
server differ by more than what is looked for, so all are started anew several times. Answers are not looked at: speed
does not depend on what the tiers are called, so by default they are a window of 1,024 tokens and 2,048, which two CPU
cores prefill in seconds; ``--window 8192`` is the real one and takes hours. About 20 minutes.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy

from checkpoints import tiered, variant
from longrope_vllm.server.running import running
from machine import server_options
from report import command_line, provenance, spread
from streaming import client, random_prompt, stream

OURS, STOCK, PLAIN = "longrope-vllm", "stock vLLM, same checkpoint", "stock vLLM, plain rope"
STRETCH = 2
STARTS, ROUNDS = 4, 3
SETTLE = 1.5
"""Seconds between turns: the processes of a server that has just answered spin for one before they sleep."""
OPTIONS = ("--max-num-seqs", "16", "--max-num-batched-tokens", "1024")
API_SERVER = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests sent at once: so many short and long ones, their lengths in parts of the window."""

    name: str
    short: int = 0
    long: int = 0
    output: int

    def prompts(self, window: int, random: numpy.random.Generator) -> list[list[int]]:
        """Short prompts fill an eighth of the window; long ones start just past it and stay below its double."""
        short = [window // 8] * self.short
        long = [int(window * (1.1 + 0.5 * place / max(1, self.long))) for place in range(self.long)]
        return [random_prompt(random, length) for length in random.permutation(short + long)]


LOADS = (
    Load(name="short only", short=12, output=48),
    Load(name="long only", long=2, output=48),
    Load(name="mixed", short=8, long=2, output=48),
)


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one server did with one load; every figure is better when it is higher."""

    requests: float
    tokens: float
    first: float
    between: float


FIGURES = {
    "tokens": "throughput",
    "first": "1 / time to first token",
    "between": "1 / time between tokens",
}


async def serve_round(url: str, prompts: Sequence[Sequence[int]], output: int) -> Round:
    """Send all prompts at once and wait for the last answer."""
    async with client(url) as asked:
        model = (await asked.models.list()).data[0].id
        started = time.perf_counter()
        answers = await asyncio.gather(*(stream(asked, model, prompt, output) for prompt in prompts))
        seconds = time.perf_counter() - started
    return Round(
        requests=len(answers) / seconds,
        tokens=sum(answer.tokens for answer in answers) / seconds,
        first=1 / statistics.median(answer.first for answer in answers),
        between=1 / statistics.median(answer.between for answer in answers),
    )


def measure(found: dict[str, dict[str, list[Round]]], urls: dict[str, str], window: int, start: int) -> None:
    """Add rounds to ``found``, by load and server. The first one of each start warms up and is not kept."""
    for number in range(ROUNDS + 1):
        for load in LOADS:
            random = numpy.random.default_rng([start, number, LOADS.index(load)])
            prompts = load.prompts(window, random)
            for name in random.permutation(list(urls)):
                time.sleep(SETTLE)
                result = asyncio.run(serve_round(urls[name], prompts, load.output))
                print(f"{number:2} {load.name:10} {name:28} {result.tokens:7.1f} tokens/s", file=sys.stderr, flush=True)
                if number > 0:
                    found[load.name][name].append(result)


def markdown(found: dict[str, dict[str, list[Round]]], window: int, command: str) -> str:
    """The results page."""
    rounds = len(found[LOADS[0].name][OURS])
    lines = [
        "# Serving: longrope-vllm against stock vLLM",
        "",
        f"SmolLM2-135M-Instruct, tiers up to {window:,} tokens (plain) and {STRETCH * window:,} (YaRN). Each figure is "
        f"longrope-vllm divided by its peer in the same round, better above 1: median of {rounds} rounds in "
        f"{rounds // ROUNDS} starts of all servers, quartiles in brackets. Every request has the same output, so the "
        "ratio of requests/s is that of output tokens/s. The last column compares the best round of each, which other "
        "work on the machine disturbs least.",
        "",
    ]
    for load in LOADS:
        lengths = sorted({len(prompt) for prompt in load.prompts(window, numpy.random.default_rng(0))})
        by_server = found[load.name]
        lines += [
            f"## {load.name.capitalize()}",
            "",
            f"{load.short} short and {load.long} long requests at once, prompts of "
            f"{', '.join(f'{length:,}' for length in lengths)} tokens, {load.output} tokens out; longrope-vllm: "
            f"{statistics.median(result.requests for result in by_server[OURS]):.2f} requests/s, "
            f"{statistics.median(result.tokens for result in by_server[OURS]):.0f} output tokens/s.",
            "",
            f"| longrope-vllm against | {' | '.join(FIGURES.values())} | throughput, best rounds |",
            "|---|" + "---:|" * (len(FIGURES) + 1),
        ]
        for peer in (STOCK, PLAIN):
            ratios = {
                figure: [
                    getattr(ours, figure) / getattr(theirs, figure)
                    for ours, theirs in zip(by_server[OURS], by_server[peer], strict=True)
                ]
                for figure in FIGURES
            }
            best = [max(result.tokens for result in by_server[name]) for name in (OURS, peer)]
            columns = [spread(values) for values in ratios.values()] + [f"{best[0] / best[1]:.3f}"]
            lines.append(f"| {peer} | {' | '.join(columns)} |")
        lines.append("")
    scaled = "" if window >= 8192 else " The tiers are scaled down so that many rounds fit; answers were not looked at."
    lines += [
        f"- three servers on the same machine, one at work at a time, in random order; the same random "
        f"prompts for all, new in each round, so that the prefix cache (on) holds nothing of them.{scaled}",
        f"- stock vLLM on the longrope checkpoint serves every request with the long factors; on the plain rope it "
        f"was told a window of {STRETCH * window:,}.",
        provenance(command, "openai"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Start the servers, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--window", type=int, default=1024, help="length of the short tier; the long one is its double")
    parser.add_argument("--starts", type=int, default=STARTS)
    asked, options = parser.parse_known_args()
    length = STRETCH * asked.window
    common = (*server_options(together=3), *OPTIONS, "--max-model-len", str(length), *options)
    stock = {"VLLM_PLUGINS": ""}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        longrope = str(tiered(folder / "longrope", asked.window, length))
        plain = str(variant(folder / "plain", max_position_embeddings=length))
        starts = {
            OURS: ("longrope_vllm.cli.main", ("serve", longrope, *common), {}),
            STOCK: (API_SERVER, ("--model", longrope, *common), stock),
            PLAIN: (API_SERVER, ("--model", plain, *common), stock),
        }
        found: dict[str, dict[str, list[Round]]] = {load.name: {name: [] for name in starts} for load in LOADS}
        for start in range(asked.starts):
            with ExitStack() as servers:
                urls = {}
                for name in numpy.random.default_rng(start).permutation(list(starts)):
                    print(f"starting {name}", file=sys.stderr, flush=True)
                    module, arguments, environment = starts[name]
                    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, **environment}
                    server = running(module, arguments, environment=environment, log=folder / f"{start}.{len(urls)}")
                    urls[str(name)] = servers.enter_context(server).url
                measure(found, urls, asked.window, start)
    command = command_line("bench_serving.py", sys.argv[1:])
    asked.out.write_text(markdown(found, asked.window, command))


if __name__ == "__main__":
    main()
