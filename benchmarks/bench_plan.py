"""What ``longrope plan`` says a CPU server takes, against what its processes really take.

    python benchmarks/bench_plan.py --out benchmarks/results/plan_cpu_DATE.md [--model FOLDER --factors FILE]

Real servers (``longrope serve``), one after the other: a model of a megabyte, from which the constants of the processes
come; the demo model with 1 and 2 GiB of cache and with few and many sequences, by which the planner was made; and one
of another shape, which it had not seen. Each answers one prompt that fills
most of its context; then the proportional set size (PSS, memory shared by processes counted once) of every process is
read. About six minutes on two cores.
"""

import argparse
import json
import re
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import psutil
import torch

from longrope_vllm import Factors, Geometry, write_factors
from longrope_vllm.demo.model import demo_model
from longrope_vllm.factors_file import read_factors
from longrope_vllm.geometry import read_config
from longrope_vllm.plan.cpu_memory import BLOCK, CHUNK, SEQUENCES, CpuMemory
from longrope_vllm.plan.gpu_memory import Batch, logits_of
from longrope_vllm.plan.kv_cache import token_bytes
from longrope_vllm.plan.served_model import ServedModel
from longrope_vllm.server.running import running
from report import command_line, provenance
from tiny_models import byte_tokenizer, tiny_llama

CONTEXT = 16_384
GIB = 1 << 30
KINDS = {"API server": "longrope_vllm.cli.main", "engine core": "VLLM::EngineCore", "worker": "VLLM::Worker"}
FIRST_TOKEN = 20
"""Token ids below are special in the models used here."""
GOAL = 0.10


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server to be measured. ``space``: GiB of cache."""

    name: str
    model: Path
    factors: Path
    space: int = 1
    sequences: int = SEQUENCES
    prompt: int = 12_000
    """Tokens."""

    @property
    def served(self) -> ServedModel:
        """As the planner sees it."""
        return ServedModel.of(read_config(self.model), self.model)

    @property
    def planned(self) -> CpuMemory:
        """By the planner, for one request: a worst case has the logits of all sequences at once."""
        batch = Batch(context=CONTEXT, chunk=CHUNK, sequences=self.sequences, block=BLOCK)
        memory = CpuMemory.of(self.served, batch, self.space * GIB, factors=read_factors(self.factors))
        return replace(memory, logits=logits_of(self.served, 1))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Bytes by kind of process (PSS), and tokens that the cache holds."""

    processes: dict[str, int]
    cache_tokens: int

    @property
    def total(self) -> int:
        """Of all processes."""
        return sum(self.processes.values())


def another_shape(folder: Path, tokenizer: Path) -> Path:
    """A random model of a gigabyte: few and wide layers, some matrices above 32 MB, a head of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=6,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for file in tokenizer.glob("tokenizer*"):
        (folder / file.name).symlink_to(file)
    return folder


def measure(server: Server, folder: Path) -> Measured:
    """Start ``server``, have it answer, read the memory of its processes."""
    options = ["serve", str(server.model), "--factors", str(server.factors), "--enforce-eager"]
    options += ["--max-num-seqs", str(server.sequences), "--served-model-name", "planned"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": str(server.space)}
    log = folder / "server.log"
    with running("longrope_vllm.cli.main", options, environment=environment, log=log, within=900) as started:
        random = numpy.random.default_rng(0)
        ask(started.url, random.integers(FIRST_TOKEN, server.served.vocabulary, server.prompt).tolist())
        time.sleep(2)  # what an answer leaves behind is freed
        return Measured(processes=by_kind(started.process.pid), cache_tokens=cache_tokens(started.url))


def ask(url: str, prompt: list[int]) -> None:
    """One completion of a few tokens."""
    body: dict[str, Any] = {"model": "planned", "prompt": prompt, "max_tokens": 4, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=900) as answer:
        answer.read()


def by_kind(pid: int) -> dict[str, int]:
    """PSS of the processes of the server that ``pid`` leads; the interpreter's helpers count to the first."""
    found = dict.fromkeys(KINDS, 0)
    leader = psutil.Process(pid)
    for process in (leader, *leader.children(recursive=True)):
        command = " ".join(process.cmdline())
        kind = next((kind for kind, mark in KINDS.items() if mark in command), "API server")
        found[kind] += process.memory_full_info().pss
    return found


def cache_tokens(url: str) -> int:
    """Tokens that the cache holds, as the engine's metrics say."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    line = next(line for line in text.splitlines() if line.startswith("vllm:cache_config_info"))
    labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
    return int(labels["num_gpu_blocks"]) * int(labels["block_size"])


def markdown(servers: list[Server], found: list[Measured], command: str) -> str:
    """The results page."""
    lines = [
        "# longrope plan against the memory of real CPU servers",
        "",
        f"`longrope serve --enforce-eager`, tiers up to {CONTEXT:,} tokens, after one prompt of up to "
        f"{max(server.prompt for server in servers):,}. Measured is the proportional set size of all processes, in MB "
        f"(1e6 bytes). The first model has a megabyte of weights: its processes are what the planner's constants are "
        f"rounded from. SmolLM2 showed which parts there are (copies, freed, three tokenizers), so it is no check of "
        f"them; the last model is: it was planned before it was measured. Goal: within {GOAL:.0%}.",
        "",
        "| server | planned | measured | planned / measured |",
        "|---|---:|---:|---:|",
    ]
    for server, measured in zip(servers, found, strict=True):
        lines.append(compared(server.name, server.planned.needed, measured.total))
    lines += [
        "",
        "## By process",
        "",
        "| server | API server | engine core | worker | worker, planned |",
        "|---|" + "---:|" * 4,
    ]
    for server, measured in zip(servers, found, strict=True):
        cells = [mb(measured.processes[kind]) for kind in KINDS]
        lines.append(f"| {server.name} | {' | '.join(cells)} | {mb(server.planned.worker)} |")
    lines += ["", "## By part", "", "| part | planned | measured | planned / measured |", "|---|---:|---:|---:|"]
    lines += by_part(servers, found)
    parts = ", ".join(f"{name} {mb(taken)}" for name, taken in servers[1].planned.parts.items())
    lines += [
        "",
        f"- planned for {servers[1].name}, in MB: {parts}.",
        "- `freed` is an upper bound: glibc may keep the weights that the CPU engine frees after it has put them into "
        "another form; a server started with `MALLOC_MMAP_THRESHOLD_=65536` gives them back.",
        "- a plan has logits for all sequences at once; here one request was answered, and one is counted.",
        provenance(command, "psutil"),
    ]
    return "\n".join(lines) + "\n"


def by_part(servers: list[Server], found: list[Measured]) -> list[str]:
    """Rows: what the cache holds, and what two servers that differ in one thing differ by."""
    rows = [
        compared(f"tokens in the cache: {server.name}", server.planned.cache // token_bytes(server.served), held, 1)
        for server, held in zip(servers, (measured.cache_tokens for measured in found), strict=True)
    ]
    small, one, two, many, other = (server.planned for server in servers)
    of_small, of_one, of_two, of_many, of_other = (measured.processes["worker"] for measured in found)
    more = f"arrays of {servers[3].sequences:,} sequences, not {servers[1].sequences}"
    return [
        *rows,
        compared("1 GiB more of cache", two.cache - one.cache, of_two - of_one),
        compared(more, many.arrays - one.arrays, of_many - of_one),
        compared("SmolLM2, not the small model: weights, copies, ...", one.worker - small.worker, of_one - of_small),
        compared("another shape, not the small model", other.worker - small.worker, of_other - of_small),
    ]


def compared(name: str, planned: int, measured: int, unit: int = 1_000_000) -> str:
    """A row."""
    return f"| {name} | {planned / unit:,.0f} | {measured / unit:,.0f} | {planned / measured:.3f} |"


def mb(amount: int) -> str:
    """In 1e6 bytes."""
    return f"{amount / 1e6:,.0f}"


def main() -> None:
    """Measure each server, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factors", type=Path, help=f"of the demo model, up to {CONTEXT} tokens (YaRN)")
    asked = parser.parse_args()
    demo = demo_model(lambda line: print(line, file=sys.stderr))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tiny = byte_tokenizer(tiny_llama(folder / "tiny"))
        wide = another_shape(folder / "wide", demo)
        models = {wide: folder / "wide.json", tiny: folder / "tiny.json", demo: asked.factors or folder / "demo.json"}
        for model, factors in models.items():
            if not factors.exists():
                write_factors(factors, Factors.from_baseline("yarn", Geometry.from_checkpoint(model), CONTEXT))
        first = Server(name="SmolLM2-135M, 1 GiB of cache", model=demo, factors=models[demo])
        servers = [
            Server(name="a model of a megabyte, 1 GiB of cache", model=tiny, factors=models[tiny]),
            first,
            replace(first, name="SmolLM2-135M, 2 GiB of cache", space=2),
            replace(first, name="SmolLM2-135M, 1 GiB of cache, 2,048 sequences", sequences=2048, prompt=4_000),
            Server(name="another shape, 1.1 GB of weights, 1 GiB", model=wide, factors=models[wide], prompt=4_000),
        ]
        found = []
        for server in servers:
            found.append(measure(server, folder))
            line = compared(server.name, server.planned.needed, found[-1].total)
            print(line, found[-1], dict(server.planned.parts), file=sys.stderr, flush=True)
        asked.out.write_text(markdown(servers, found, command_line("bench_plan.py", sys.argv[1:])))


if __name__ == "__main__":
    main()
