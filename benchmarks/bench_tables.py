"""Tables of cos and sin up to two million positions: error against mpmath, time to build, memory.

    python benchmarks/bench_tables.py --out benchmarks/results/tables_cpu_DATE.md

Ours (angle addition in float32 from angles in float64), ours with ``--angles match-hf``, and stock vLLM's longrope
class, for head size 128, base 500,000 and YaRN factors of a trained window of 8,192. Each build runs in a process of
its own, so that its peak memory is its own. Draws the errors beside the page. About two minutes on two CPU cores.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import mpmath
import torch
from torch import Tensor

from longrope_vllm import Factors, Geometry, Tier
from longrope_vllm.rope import BLOCK, RopeTable, cos_sin_rows, inverse_frequencies, reference_rows
from longrope_vllm.tier_table import tier_table
from report import provenance

HEAD_SIZE, WINDOW, BASE = 128, 8_192, 500_000.0
POSITIONS = {"4k": 4_096, "128k": 131_072, "1M": 1_048_576, "2M": 2_097_152}
LENGTHS = {"128k": 131_072, "1M": 1_048_576, "2M": 2_097_152}
SAMPLED = 16  # positions before each of POSITIONS, all 64 pairs of each
SHAPE = {"head_size": HEAD_SIZE, "rotary_dim": HEAD_SIZE, "base": BASE, "rope_type": "default"}
GEOMETRY = Geometry(trained_window=WINDOW, max_positions=WINDOW, **SHAPE)


def longest_tier(length: int) -> Tier:
    """The YaRN tier that ends at ``length``."""
    return Factors.from_baseline("yarn", GEOMETRY, length).tiers[-1]


def exact_rows(positions: list[int], tier: Tier) -> Tensor:
    """``[cos | sin]`` by mpmath with 40 digits, [positions, HEAD_SIZE] float64."""
    rows = []
    with mpmath.workdps(40):
        frequencies = [
            mpmath.mpf(BASE) ** (-mpmath.mpf(2 * i) / HEAD_SIZE) / mpmath.mpf(factor)
            for i, factor in enumerate(tier.factors)
        ]
        for position in positions:
            angles = [position * frequency for frequency in frequencies]
            rows.append([float(mpmath.cos(a)) for a in angles] + [float(mpmath.sin(a)) for a in angles])
    return tier.attention_factor * torch.tensor(rows, dtype=torch.float64)


def errors() -> dict[str, dict[str, float]]:
    """Mode to position to the largest absolute error of a cosine or sine."""
    found: dict[str, dict[str, float]] = {}
    tier = longest_tier(max(POSITIONS.values()))
    table = tier_table(GEOMETRY, tier)
    for name, end in POSITIONS.items():
        positions = list(range(end - SAMPLED, end))
        exact = exact_rows(positions, tier)
        ours = table.read(torch.tensor(positions))
        theirs = reference_rows(BASE, tier.factors, end, attention_factor=tier.attention_factor)[-SAMPLED:]
        modes = {
            "ours, float32": ours,
            "ours, rounded to bfloat16": ours.bfloat16(),
            "exact, rounded to bfloat16": exact.bfloat16(),
            "match-hf, float32": theirs,
            "stock vLLM and match-hf, rounded to bfloat16": theirs.bfloat16(),
        }
        for mode, rows in modes.items():
            found.setdefault(mode, {})[name] = (rows.double() - exact).abs().max().item()
    return found


def build(subject: str, length: int) -> list[Tensor]:
    """The table of ``subject`` for a server of ``length`` tokens, with the trained window as its first tier."""
    tier = longest_tier(length)
    if subject == "longrope-vllm":
        own = RopeTable.of_rows(cos_sin_rows(inverse_frequencies(HEAD_SIZE, BASE), WINDOW))
        joined = RopeTable.joined([tier_table(GEOMETRY, tier), own])
        return [joined.rows, joined.turns, joined.steps]
    if subject == "full table, exact":
        frequencies = inverse_frequencies(HEAD_SIZE, BASE) / torch.tensor(tier.factors, dtype=torch.float64)
        return [cos_sin_rows(frequencies, length, attention_factor=tier.attention_factor).bfloat16()]
    from vllm.model_executor.layers.rotary_embedding import phi3_long_rope_scaled_rope as stock

    asked = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))  # all that the class asks for
    stock.get_current_vllm_config = lambda: asked
    rotary = stock.Phi3LongRoPEScaledRotaryEmbedding(
        HEAD_SIZE, HEAD_SIZE, length, WINDOW, BASE, True, torch.bfloat16, [1.0] * 64, list(tier.factors)
    )
    return [rotary.long_short_cos_sin_cache]


SUBJECTS = ("longrope-vllm", "full table, exact", "stock longrope class")


def measure_build(subject: str, length: int) -> None:
    """Build twice (the first loads libraries), print seconds, bytes kept and peak bytes above the start as JSON."""
    build(subject, 2 * WINDOW)
    before = peak_bytes()
    started = time.perf_counter()
    tensors = build(subject, length)
    seconds = time.perf_counter() - started
    kept = sum(tensor.nbytes for tensor in tensors)
    print(json.dumps({"seconds": seconds, "kept": kept, "peak": max(kept, peak_bytes() - before)}))


def peak_bytes() -> int:
    """Most memory this process has held so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def builds() -> list[tuple[str, str, dict[str, float]]]:
    """(length, subject, what ``measure_build`` printed), the subjects taking turns."""
    found = []
    for name, length in LENGTHS.items():
        for subject in SUBJECTS:
            command = [sys.executable, __file__, "--build", subject, "--length", str(length)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append((name, subject, json.loads(done.stdout.splitlines()[-1])))
    return found


def plot(found: dict[str, dict[str, float]], path: Path) -> None:
    """Errors against position, one line a mode."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for mode, row in found.items():
        axes.plot(list(POSITIONS.values()), list(row.values()), marker="o", label=mode)
    axes.set(xscale="log", yscale="log", xlabel="position", ylabel="largest error of cos and sin")
    axes.set_xticks(list(POSITIONS.values()), list(POSITIONS))
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def page(found: dict[str, dict[str, float]], built: list[tuple[str, str, dict[str, float]]], picture: Path) -> str:
    """The results page."""
    lines = [
        "# Tables of cos and sin up to two million positions",
        "",
        f"Head size {HEAD_SIZE}, base {BASE:,.0f}, YaRN factors from {WINDOW:,} to 2,097,152 tokens (attention factor "
        f"{longest_tier(2_097_152).attention_factor:.3f}).",
        "",
        f"## Largest error of cos and sin against mpmath, in the {SAMPLED} positions before each length",
        "",
        "| mode | " + " | ".join(POSITIONS) + " |",
        "|---|" + "---:|" * len(POSITIONS),
        *(f"| {mode} | " + " | ".join(f"{row[name]:.1e}" for name in POSITIONS) + " |" for mode, row in found.items()),
        "",
        f"![errors by position]({picture.name})",
        "",
        "## Building a table, trained window and one longer tier",
        "",
        "| length | table | seconds | MB kept | MB at the peak |",
        "|---|---|---:|---:|---:|",
        *(
            f"| {name} | {subject} | {row['seconds']:.3f} | {row['kept'] / 1e6:.1f} | {row['peak'] / 1e6:.0f} |"
            for name, subject, row in built
        ),
        "",
        f"- ours: blocks of {BLOCK:,} positions, float32; the full tables are kept in bfloat16, as vLLM keeps its own.",
        provenance("python benchmarks/bench_tables.py", "mpmath"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the page; with ``--build`` only build one table, for the process that asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--build", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.build:
        measure_build(asked.build, asked.length)
        return
    if asked.out is None:
        parser.error("--out is needed")
    found = errors()
    picture = asked.out.with_suffix(".png")
    plot(found, picture)
    asked.out.write_text(page(found, builds(), picture))


if __name__ == "__main__":
    main()
