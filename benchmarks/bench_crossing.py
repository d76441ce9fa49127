"""What a crossing costs: the pause of a request that outgrows its tier, against a fresh prefill of as many tokens.

    python benchmarks/bench_crossing.py --out benchmarks/results/crossing_cpu_DATE.md [options of vLLM]

One ``longrope serve`` with a tier boundary at 4k, 8k and 32k. A request just below a boundary generates across it; its
longest gap between two tokens is the crossing. Beside it, in turns: a fresh request whose prompt is one token longer
than the boundary, by its time to first token and by the time that the engine spent on its prefill (vLLM's own metric,
without HTTP and parsing, which a crossing does not repeat). Both compute boundary + 1 tokens in the next tier, and no
prompt shares a prefix with another. The model is four layers of the demo model's shape with random weights: a ratio of
two prefills needs no more, and at 32k all thirty would take minutes for each. About 5 minutes.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy
import openai

from checkpoints import tiered
from longrope_vllm.server.running import running
from machine import server_options
from report import command_line, provenance, spread
from streaming import client, random_prompt, stream

BOUNDARIES = {4_096: 9, 8_192: 7, 32_768: 3}
"""Tier boundary, in tokens, to rounds."""
LONGEST = 33_792
LAYERS = 4
BELOW, OUTPUT = 8, 16
"""The crossing request is admitted so many tokens below the boundary and generates so many."""
OPTIONS = ("--load-format", "dummy", "--max-num-seqs", "4", "--max-num-batched-tokens", "2048")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Seconds: the pause at a boundary; a fresh prompt past it, in all and its prefill alone; a usual gap."""

    crossing: float
    first: float
    prefill: float
    usual: float


async def crossing(asked: openai.AsyncOpenAI, model: str, boundary: int, random: numpy.random.Generator) -> list[float]:
    """The gaps between the tokens of a request that crosses ``boundary``, longest last."""
    answer = await stream(asked, model, random_prompt(random, boundary - BELOW), OUTPUT)
    told = (await asked.get(f"/requests/{answer.id}", cast_to=object))["longrope"]
    assert told["crossings"] == 1, f"expected one crossing at {boundary}, found {told}"
    return sorted(answer.gaps)


async def fresh(
    asked: openai.AsyncOpenAI, model: str, boundary: int, random: numpy.random.Generator
) -> tuple[float, float]:
    """Time to first token of a prompt that ends one token past ``boundary``, and the engine's share of it."""
    seconds, requests = await prefills(asked)
    answer = await stream(asked, model, random_prompt(random, boundary + 1), 2)
    while (after := await prefills(asked))[1] == requests:
        await asyncio.sleep(0.1)  # the metric follows the answer
    assert after[1] == requests + 1
    return answer.first, after[0] - seconds


async def prefills(asked: openai.AsyncOpenAI) -> tuple[float, int]:
    """Seconds that the engine has spent on prefills so far, and of how many requests."""
    text = await asked.get(str(asked.base_url.join("/metrics")), cast_to=str)
    found = {
        line.partition("{")[0].rpartition("_")[2]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("vllm:request_prefill_time_seconds_")
    }
    return found["sum"], int(found["count"])


async def measure(url: str) -> dict[int, list[Pair]]:
    """Boundary to pairs, the two requests taking turns in who is first. The very first pair is not kept."""
    found: dict[int, list[Pair]] = {}
    async with client(url) as asked:
        model = (await asked.models.list()).data[0].id
        for boundary, rounds in BOUNDARIES.items():
            found[boundary] = []
            warm_up = 0 if len(found) > 1 else 1
            for number in range(rounds + warm_up):
                random = numpy.random.default_rng([boundary, number])
                if number % 2:
                    gaps = await crossing(asked, model, boundary, random)
                    first, prefill = await fresh(asked, model, boundary, random)
                else:
                    first, prefill = await fresh(asked, model, boundary, random)
                    gaps = await crossing(asked, model, boundary, random)
                pair = Pair(crossing=gaps[-1], first=first, prefill=prefill, usual=gaps[len(gaps) // 2])
                print(f"{boundary:6,}: {pair}", file=sys.stderr, flush=True)
                if number >= warm_up:
                    found[boundary].append(pair)
    return found


def markdown(found: dict[int, list[Pair]], command: str) -> str:
    """The results page."""
    lines = [
        "# A crossing against a fresh prefill",
        "",
        "A request outgrows its tier while it generates: the pause until its next token, against the prefill of a "
        "fresh prompt of boundary + 1 tokens on the same server. Median, quartiles in brackets.",
        "",
        "| boundary | pause / prefill | pause / time to first token | pause, s | prefill, s | a usual gap, s | pairs |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for boundary, pairs in found.items():
        columns = (
            spread([pair.crossing / pair.prefill for pair in pairs], 2),
            spread([pair.crossing / pair.first for pair in pairs], 2),
            spread([pair.crossing for pair in pairs], 4),
            spread([pair.prefill for pair in pairs], 4),
            spread([pair.usual for pair in pairs], 4),
        )
        lines.append(f"| {boundary:,} | {' | '.join(columns)} | {len(pairs)} |")
    lines += [
        "",
        f"- {LAYERS} of the 30 layers of SmolLM2-135M, random weights: a ratio of two prefills on one engine, not the "
        "seconds of a real model.",
        "- every prompt is random and new, so that nothing comes from the prefix cache, which is on; the server "
        "confirmed one crossing for each crossing request. The two requests of a pair take turns in being first.",
        "- prefill: the engine's own count, vLLM's `request_prefill_time_seconds`; the time to first token also holds "
        "HTTP, parsing and queueing, which a crossing does not repeat.",
        provenance(command, "openai"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Start the server, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    asked, options = parser.parse_known_args()
    window, *lengths = BOUNDARIES
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = str(tiered(folder / "model", window, *lengths, LONGEST, num_hidden_layers=LAYERS))
        arguments = ("serve", model, *server_options(), *OPTIONS, *options)
        environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}
        with running("longrope_vllm.cli.main", arguments, environment=environment, log=folder / "log") as server:
            found = asyncio.run(measure(server.url))
    asked.out.write_text(markdown(found, command_line("bench_crossing.py", sys.argv[1:])))


if __name__ == "__main__":
    main()
