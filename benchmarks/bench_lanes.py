"""Short requests beside one long prefill: their time to first token, and what it costs the long one.

    python benchmarks/bench_lanes.py --out benchmarks/results/lanes_cpu_DATE.md [--long N] [--short N] [options of vLLM]

Three servers on the same weights: ``longrope serve``; stock vLLM with a plain rope, which is the least that any server
has to do; and stock vLLM with its own remedy, ``--long-prefill-token-threshold``. All stay up and take turns. A turn of
a run: 20 short requests one after the other on the idle server, the long request alone, and then the long request with
the 20 short ones sent at even intervals while it is prefilled. Prompts are random, new in each run and the same for all
servers. The model has random weights and the shape of one of 8B in small: at each length, attention has the share of
all operations that it has there. About 40 minutes.
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
import openai

from checkpoints import tiered, variant
from longrope_vllm.server.running import running
from machine import server_options
from report import command_line, provenance
from streaming import client, random_prompt, stream

OURS, STOCK, KNOB = "longrope-vllm", "stock vLLM", "stock vLLM with a threshold"
WINDOW = 8_192
SHAPE = {"num_hidden_layers": 2, "intermediate_size": 17_664}
"""Of the demo model's configuration. Llama 3 8B has 53,000 weights in a layer for each element of its attention's width
(218 million, 4,096); so has this one (31 million, 576), where the demo model has 6,000: mostly attention."""
SHORT_REQUESTS, SHORT_OUTPUT, LONG_OUTPUT = 20, 8, 2
STEP, THRESHOLD = 2048, 256
"""Tokens: the most of one step, and what vLLM's threshold leaves of it for a long prompt beside others."""
SHORT_GOAL, LONG_GOAL = 2.0, 1.3
"""Times: the short requests' 95th percentile over idle, and the long request's slowdown."""
SETTLE = 1.5
"""Seconds between turns: the processes of a server that has just answered spin for one before they sleep."""
API_SERVER = "vllm.entrypoints.openai.api_server"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Times to first token in one run of one server, in seconds."""

    idle: tuple[float, ...]
    beside: tuple[float, ...]
    long_alone: float
    long_beside: float

    @property
    def short_ratio(self) -> float:
        """95th percentile of the short requests beside the long one, over that of the idle server."""
        return p95(self.beside) / p95(self.idle)

    @property
    def slowdown(self) -> float:
        """Of the long request, by the short ones, on this server."""
        return self.long_beside / self.long_alone


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Of one run: for the idle server, beside the long one, and two long ones of the same length."""

    idle: list[list[int]]
    beside: list[list[int]]
    alone: list[int]
    long: list[int]

    @classmethod
    def of_run(cls, run: int, *, short: int, long: int) -> "Prompts":
        """Those of run number ``run``; lengths in tokens."""
        random = numpy.random.default_rng([run, short, long])
        idle, beside = ([random_prompt(random, short) for _ in range(SHORT_REQUESTS)] for _ in range(2))
        return cls(idle=idle, beside=beside, alone=random_prompt(random, long), long=random_prompt(random, long))


def p95(seconds: Sequence[float]) -> float:
    """The 95th percentile."""
    return float(numpy.percentile(seconds, 95))


async def first_token(asked: openai.AsyncOpenAI, model: str, prompt: list[int], output: int, after: float) -> float:
    """Time to first token of a request that is sent ``after`` so many seconds."""
    await asyncio.sleep(after)
    return (await stream(asked, model, prompt, output)).first


async def turn(url: str, prompts: Prompts) -> Turn:
    """One run on one server."""
    async with client(url) as asked:
        model = (await asked.models.list()).data[0].id
        idle = [await first_token(asked, model, prompt, SHORT_OUTPUT, 0.1) for prompt in prompts.idle]
        alone = await first_token(asked, model, prompts.alone, LONG_OUTPUT, SETTLE)
        between = alone / (SHORT_REQUESTS + 1)
        long, *beside = await asyncio.gather(
            first_token(asked, model, prompts.long, LONG_OUTPUT, 0.0),
            *(
                first_token(asked, model, prompt, SHORT_OUTPUT, between * (place + 1))
                for place, prompt in enumerate(prompts.beside)
            ),
        )
    return Turn(idle=tuple(idle), beside=tuple(beside), long_alone=alone, long_beside=long)


async def warm_up(url: str, prompts: Prompts) -> None:
    """A few requests that nobody counts."""
    async with client(url) as asked:
        model = (await asked.models.list()).data[0].id
        for prompt in (prompts.idle[0], prompts.alone[: 2 * STEP]):
            await stream(asked, model, prompt, 2)


def measure(urls: dict[str, str], runs: int, *, short: int, long: int) -> dict[str, list[Turn]]:
    """Turns by server, run by run, the servers in random order."""
    found: dict[str, list[Turn]] = {name: [] for name in urls}
    for url in urls.values():
        asyncio.run(warm_up(url, Prompts.of_run(runs, short=short, long=long)))
    for run in range(runs):
        prompts = Prompts.of_run(run, short=short, long=long)
        for name in numpy.random.default_rng(run).permutation(list(urls)):
            time.sleep(SETTLE)
            result = asyncio.run(turn(urls[name], prompts))
            found[name].append(result)
            print(
                f"{run} {name}: short {result.short_ratio:.2f}, long {result.slowdown:.2f}", file=sys.stderr, flush=True
            )
            print(f"    {result}", file=sys.stderr, flush=True)
    return found


def rows(found: dict[str, list[Turn]]) -> list[str]:
    """The table: one line a run and server."""
    lines = []
    for name, turns in found.items():
        for run, result in enumerate(turns):
            columns = (
                name,
                str(run + 1),
                f"{p95(result.idle):.4f}",
                f"{p95(result.beside):.4f}",
                f"{max(result.beside):.4f}",
                f"{result.short_ratio:.2f}",
                f"{result.long_alone:.2f}",
                f"{result.long_beside:.2f}",
                f"{result.slowdown:.2f}",
                f"{result.long_beside / found[STOCK][run].long_alone:.2f}",
            )
            lines.append(f"| {' | '.join(columns)} |")
    return lines


def verdict(found: dict[str, list[Turn]]) -> list[str]:
    """Medians of the runs against the goals, by server."""
    lines = []
    for name, turns in found.items():
        ratio = statistics.median(result.short_ratio for result in turns)
        stock = [result.long_alone for result in found[STOCK]]
        slowdown = statistics.median(result.long_beside / alone for result, alone in zip(turns, stock, strict=True))
        held = "both goals met" if ratio <= SHORT_GOAL and slowdown <= LONG_GOAL else "goals not met"
        lines.append(
            f"- {name}: short {ratio:.2f} (goal {SHORT_GOAL}), long {slowdown:.2f} (goal {LONG_GOAL}): {held}."
        )
    return lines


def markdown(found: dict[str, list[Turn]], command: str, *, short: int, long: int, longest: int) -> str:
    """The results page."""
    lines = [
        "# Short requests beside one long prefill",
        "",
        f"{SHORT_REQUESTS} requests of {short:,} tokens, sent at even intervals while {long:,} tokens are prefilled. "
        "Time to first token in seconds; the short ones' 95th percentile, on the idle server and beside the long "
        "request; the long request alone and beside them, and its slowdown against itself alone on the same server "
        "and on stock vLLM.",
        "",
        "| server | run | short idle | short beside | worst | ratio | long alone | long beside | slowdown | "
        "over stock alone |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *rows(found),
        "",
        "Median of the runs, the long request over stock vLLM's alone:",
        "",
        *verdict(found),
        "",
        "- two layers with SmolLM2's attention and, for its width, the weights of Llama 3 8B: attention has the same "
        "share of the operations. Random weights; answers were not looked at.",
        f"- tiers up to {WINDOW:,} (plain) and {longest:,} tokens (YaRN); both stock servers have a plain rope.",
        f"- steps of up to {STEP:,} tokens; the threshold is {THRESHOLD} tokens.",
        "- the work of the short requests is in the long one's slowdown: on stock vLLM they wait until it is done.",
        provenance(command, "openai"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Start the servers, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--long", type=int, default=60_000, help="tokens of the long request")
    parser.add_argument("--short", type=int, default=1_000, help="tokens of a short request")
    asked, options = parser.parse_known_args()
    longest = max(8 * WINDOW, 1 << (asked.long + LONG_OUTPUT).bit_length())
    common = (*server_options(together=3), "--load-format", "dummy", "--max-num-seqs", "32")
    common = (*common, "--max-model-len", str(longest), "--max-num-batched-tokens", str(STEP), *options)
    stock = {"VLLM_PLUGINS": ""}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as servers:
        folder = Path(scratch)
        longrope = str(tiered(folder / "longrope", WINDOW, longest, **SHAPE))
        plain = str(variant(folder / "plain", max_position_embeddings=longest, **SHAPE))
        threshold = ("--long-prefill-token-threshold", str(THRESHOLD))
        starts = {
            OURS: ("longrope_vllm.cli.main", ("serve", longrope, *common), {}),
            STOCK: (API_SERVER, ("--model", plain, *common), stock),
            KNOB: (API_SERVER, ("--model", plain, *common, *threshold), stock),
        }
        urls = {}
        for name, (module, arguments, own) in starts.items():
            print(f"starting {name}", file=sys.stderr, flush=True)
            environment = {"VLLM_CPU_KVCACHE_SPACE": "2", **os.environ, **own}
            log = folder / f"{len(urls)}.log"
            server = running(module, arguments, environment=environment, log=log, within=900)
            urls[name] = servers.enter_context(server).url
        found = measure(urls, asked.runs, short=asked.short, long=asked.long)
    command = command_line("bench_lanes.py", sys.argv[1:])
    asked.out.write_text(markdown(found, command, short=asked.short, long=asked.long, longest=longest))


if __name__ == "__main__":
    main()
