"""For each length the least that must be asked for to make a step fit into given GPUs.

The rungs, cheapest first: checkpointing (the default), tiled MLPs (the same arithmetic in parts), offload (time on the
bus), adapters instead of all weights, and at last rows that are shared out over several GPUs, with the same order once
more. ``single`` uses one GPU for a row; the others of the machine then read rows of their own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from longrope_training.memory_plan import Layout, TrainingMemory
from longrope_training.model_shape import ModelShape
from longrope_training.recipe import Parallel, Tuning
from longrope_training.sharing import shared_by
from longrope_training.step_time import tokens_per_second
from longrope_vllm.gpus import Gpus

MLP_TOKENS = 8192
"""Tokens of a tile: few enough to take little, many enough to keep a GPU busy."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way of training at one length on one kind of machine."""

    gpus: Gpus
    memory: TrainingMemory
    tokens_per_second: float | None
    """By ``step_time``; None where the GPU's peak is not known."""

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.memory.needed <= self.gpus.memory

    @property
    def host(self) -> int:
        """Bytes of the host's memory that all processes of the machine take together."""
        return self.memory.host * self.memory.layout.processes

    @property
    def flags(self) -> str:
        """Options of ``longrope train`` that ask for it, with those that ``auto`` would choose too."""
        layout = self.memory.layout
        found = [f"--tuning {layout.tuning}"]
        if layout.mlp_tokens is not None:
            found.append(f"--mlp-tokens {layout.mlp_tokens // 1024}k")
        if layout.offload:
            found.append("--offload")
        if layout.parallel == "single" and layout.processes > 1:
            found.append("--parallel single")
        elif layout.parallel != "single":
            found.append(f"--parallel {layout.parallel} --ways {layout.ways}")
        return " ".join(found)


def climb(
    shape: ModelShape,
    gpus: Gpus,
    lengths: Sequence[int],
    *,
    tuning: Tuning = "auto",
    parallel: Parallel | Literal["auto"] = "auto",
) -> list[Rung]:
    """For each of ``lengths`` the first rung that fits, or the one that takes least."""
    return [_first(shape, gpus, length, tuning, parallel) for length in lengths]


def _first(shape: ModelShape, gpus: Gpus, length: int, tuning: Tuning, parallel: Parallel | Literal["auto"]) -> Rung:
    rungs = []
    for layout in _layouts(shape, gpus, length, tuning, parallel):
        speed = None if gpus.flops is None else tokens_per_second(shape, layout, gpus.flops)
        rungs.append(Rung(gpus=gpus, memory=TrainingMemory.of(shape, layout), tokens_per_second=speed))
        if rungs[-1].fits:
            return rungs[-1]
    return min(rungs, key=lambda rung: rung.memory.needed)


def _layouts(
    shape: ModelShape, gpus: Gpus, length: int, tuning: Tuning, parallel: Parallel | Literal["auto"]
) -> Iterator[Layout]:
    """All rungs in their order."""
    tunings: tuple[Literal["full", "lora"], ...] = ("full", "lora") if tuning == "auto" else (tuning,)
    for kind, ways in shares(shape, gpus.count, parallel):
        for tuned in tunings:
            plain = Layout(length=length, tuning=tuned, parallel=kind, processes=ways * (gpus.count // ways), ways=ways)
            tiled = replace(plain, mlp_tokens=MLP_TOKENS)
            yield from (
                (plain, tiled, replace(tiled, offload=True))
                if plain.tokens > MLP_TOKENS
                else (
                    plain,
                    replace(plain, offload=True),
                )
            )


def shares(shape: ModelShape, count: int, parallel: Parallel | Literal["auto"]) -> list[tuple[Parallel, int]]:
    """Kinds of sharing a row out over ``count`` GPUs, with the ways of each: as many as the heads allow."""
    by_heads = [ways for ways in shared_by(shape.heads, shape.kv_heads) if ways <= count]
    known: dict[Parallel, list[int]] = {"single": [1], "sp": by_heads[-1:], "cp": [count] if count > 1 else []}
    asked: tuple[Parallel, ...] = ("single", "sp") if parallel == "auto" else (parallel,)
    return [(kind, ways) for kind in asked for ways in known[kind]]
