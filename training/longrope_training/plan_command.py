"""``longrope plan train``: what fits at which length on which GPUs, with the options that make it fit.

Nothing is loaded and no GPU is needed: ``config.json`` and the headers of the weights say all there is to say.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console, JustifyMethod
from rich.table import Table

from longrope_training.memory_plan import CONTEXT, FRAGMENTS, resolved_tuning
from longrope_training.model_shape import ModelShape
from longrope_training.plan_ladder import Rung, climb, shares
from longrope_training.recipe import Parallel, Tuning
from longrope_training.step_time import UTILISATION
from longrope_vllm.errors import TrainingError
from longrope_vllm.gpus import KNOWN, Gpus, parse_gpus
from longrope_vllm.lengths import format_length, parse_lengths

LENGTHS = "32k,128k,256k,512k,1M"
GPUS = "rtx4090-24,h100-80,8xh100-80"


def run(prog: str, arguments: Sequence[str]) -> int:
    """``longrope plan train ARGUMENTS``. Raises ``LongRopeError``."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", type=Path, help="checkpoint directory; its config.json is enough")
    parser.add_argument(
        "--gpus",
        metavar="GPUS,...",
        default=GPUS,
        help=f"GPUs of one machine, such as 8xh100-80 or 4x80 (GB), or several to compare ({GPUS}); known are "
        f"{', '.join(KNOWN)}",
    )
    parser.add_argument("--lengths", metavar="LENGTH,...", default=LENGTHS, help=f"tokens of a row ({LENGTHS})")
    parser.add_argument(
        "--tuning", choices=get_args(Tuning), default="auto", help="all weights, adapters, or whichever fits first"
    )
    parser.add_argument(
        "--parallel",
        choices=("auto", *get_args(Parallel)),
        default="auto",
        help="how a row is shared out; auto: not at all where that fits, else by Ulysses (sp)",
    )
    parser.add_argument("--json", action="store_true", help="print a list of plans in JSON, bytes by part")
    asked = parser.parse_args(arguments)
    shape = ModelShape.of(asked.model)
    machines = [parse_gpus(part) for part in asked.gpus.split(",") if part.strip()]
    lengths = parse_lengths(asked.lengths)
    if not machines or not lengths:
        raise TrainingError("Expected at least one kind of --gpus and one of --lengths, found none.")
    for gpus in machines:
        _check_parallel(gpus, asked.parallel, shape)
    plans = [climb(shape, gpus, lengths, tuning=asked.tuning, parallel=asked.parallel) for gpus in machines]
    console = Console(highlight=False)
    if asked.json:
        found = [_document(rung) for rungs in plans for rung in rungs]
        console.print(json.dumps(found, indent=2), markup=False, soft_wrap=True)
        return 0
    console.print(
        f"{asked.model.resolve().name}: {shape.parameters / 1e9:.2f}B parameters, {shape.layers} layers; --tuning auto "
        f"takes {resolved_tuning('auto', shape.parameters)}\n",
        markup=False,
        soft_wrap=True,
    )
    for gpus, rungs in zip(machines, plans, strict=True):
        console.print(_table(gpus, rungs), "")
    console.print(_notes(), soft_wrap=True)
    return 0


def _check_parallel(gpus: Gpus, parallel: str, shape: ModelShape) -> None:
    if parallel in ("sp", "cp") and gpus.count < 2:
        raise TrainingError(
            f"Expected several GPUs for --parallel {parallel}, found {gpus.title}: say how many, as 8x."
        )
    if parallel == "sp" and not shares(shape, gpus.count, "sp"):
        raise TrainingError(
            f"Expected heads that up to {gpus.count} processes can share out, found {shape.heads} of queries and "
            f"{shape.kv_heads} of keys and values: take --parallel cp."
        )


def _table(gpus: Gpus, rungs: Sequence[Rung]) -> Table:
    title = f"{gpus.title}: {gpus.memory / 1e9:.0f} GB" + (" each" if gpus.count > 1 else "")
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for heading in ("length", "GB a GPU", "host GB", "tokens/s", "fits", "options"):
        justify: JustifyMethod = "left" if heading in ("fits", "options") else "right"
        table.add_column(heading, justify=justify, no_wrap=heading != "options")
    for rung in rungs:
        speed = rung.tokens_per_second
        table.add_row(
            format_length(rung.memory.layout.length),
            f"{rung.memory.needed / 1e9:.0f}",
            f"{rung.host / 1e9:.0f}" if rung.host else "",
            f"{speed:,.0f}" if rung.fits and speed is not None else "",
            "yes" if rung.fits else "no",
            rung.flags if rung.fits else _largest(rung),
        )
    return table


def _largest(rung: Rung) -> str:
    """What takes most where even the last rung does not fit."""
    names = sorted(rung.memory.parts, key=lambda name: -rung.memory.parts[name])[:2]
    return "most for " + " and ".join(f"{name} ({rung.memory.parts[name] / 1e9:.0f} GB)" for name in names)


def _notes() -> str:
    return (
        f"Estimates: {FRAGMENTS - 1:.0%} for fragments and {CONTEXT / 1e9:.1f} GB for CUDA and NCCL are assumed; "
        "flash-attn, or SDPA without a mask; rows one by one. Tokens a second are those of all GPUs at "
        f"{UTILISATION:.0%} of their peak, which is assumed too."
    )


def _document(rung: Rung) -> dict[str, Any]:
    layout = rung.memory.layout
    return {
        "gpus": rung.gpus.title,
        "gpu_bytes": rung.gpus.memory,
        "length": layout.length,
        "fits": rung.fits,
        "options": rung.flags,
        "tuning": layout.tuning,
        "parallel": layout.parallel,
        "ways": layout.ways,
        "mlp_tokens": layout.mlp_tokens,
        "offload": layout.offload,
        "needed_bytes": rung.memory.needed,
        "host_bytes": rung.host,
        "parts": dict(rung.memory.parts),
        "tokens_per_second": rung.tokens_per_second,
    }
