"""Rotary embedding of a longrope checkpoint: stock vLLM's class, ours, and the plain rope of a model without longrope.

    python benchmarks/bench_rotary.py --out benchmarks/results/rotary_cpu_DATE.md [--device cuda]

32 query heads and 8 key heads, bfloat16, positions up to 131,072, for 1, 64 and 2,048 tokens and head sizes 64, 96 and
128. Ours reads the rows of a step once and rotates with vLLM's own op in every layer, so both are measured and put
together for a model of 32 layers. The subjects take turns in one process and one thread, so that the ratios hold
whatever else the machine does. About a minute on the CPU.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from vllm.config import set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope import Phi3LongRoPEScaledRotaryEmbedding

from longrope_vllm import Factors, Geometry, Tier, write_rope
from longrope_vllm.plugin.rotary import TieredRotaryEmbedding
from longrope_vllm.rope import apply_rotary, cos_sin_rows, rescaled_inverse_frequencies
from report import command_line, provenance, spread

HEADS, KV_HEADS, LAYERS = 32, 8, 32
WINDOW, LENGTH, BASE = 8_192, 131_072, 500_000.0
TOKENS, HEAD_SIZES = (1, 64, 2_048), (64, 96, 128)
ROUNDS = 31
REPEATS = {"cpu": 128, "cuda": 1 << 13}
"""Tokens that are rotated between two looks at the clock: on a GPU a call takes as long as its launch."""

Inputs = tuple[Tensor, Tensor, Tensor]
"""Positions, queries, keys."""


def checkpoint(folder: Path, head_size: int) -> Tier:
    """A configuration of an 8B Llama shape with a longrope block, without weights; its long tier."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HEADS * head_size,
        "intermediate_size": 14_336,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": 1,
        "vocab_size": 128,
        "head_dim": head_size,
        "max_position_embeddings": WINDOW,
        "rope_theta": BASE,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    factors = Factors.from_baseline("yarn", Geometry.from_checkpoint(folder), LENGTH)
    write_rope(folder, factors)
    return factors.tiers[-1]


def rotaries(folder: Path, head_size: int) -> dict[str, nn.Module]:
    """The three embeddings, made in vLLM's own configuration context."""
    config = EngineArgs(
        model=str(folder), skip_tokenizer_init=True, enforce_eager=True, max_num_batched_tokens=max(TOKENS)
    ).create_engine_config()
    block = json.loads((folder / "config.json").read_text())["rope_scaling"]
    common = {"head_size": head_size, "rotary_dim": head_size, "base": BASE, "is_neox_style": True}
    common |= {"max_position_embeddings": LENGTH, "dtype": torch.bfloat16}
    longrope = {key: block[key] for key in ("short_factor", "long_factor", "short_mscale", "long_mscale")}
    longrope |= {"original_max_position_embeddings": WINDOW}
    with set_current_vllm_config(config):
        return {
            "stock": Phi3LongRoPEScaledRotaryEmbedding(**common, **longrope),
            "ours": TieredRotaryEmbedding(**common, **longrope),
            "plain": RotaryEmbedding(**common),
        }


def waited() -> None:
    """All that was begun on the device has ended."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()


def inputs(tokens: int, head_size: int) -> Inputs:
    """One long sequence's last ``tokens`` positions and random states."""
    query, key = (torch.randn(tokens, heads * head_size, dtype=torch.bfloat16) for heads in (HEADS, KV_HEADS))
    return torch.arange(LENGTH - tokens, LENGTH), query, key


def calls(modules: dict[str, nn.Module], given: Inputs) -> dict[str, Callable[[], object]]:
    """What is timed: the op of a layer, in place, and the rows of a step."""
    positions, query, key = given
    places, offsets = torch.arange(len(positions)), torch.zeros_like(positions)
    return {
        "stock": lambda: modules["stock"](positions, query, key),
        "ours": lambda: modules["ours"](places, query, key),
        "plain": lambda: modules["plain"](positions, query, key),
        "rows": lambda: modules["ours"].take_rows(positions, offsets),  # type: ignore[operator]
    }


def times(subjects: dict[str, Callable[[], object]], given: Inputs, repeat: int) -> dict[str, list[float]]:
    """Microseconds of each subject by round, the subjects taking turns; ``repeat`` calls at a time."""
    found: dict[str, list[float]] = {name: [] for name in subjects}
    fresh = [states.clone() for states in given[1:]]
    order = list(subjects.items())
    for _ in range(ROUNDS):
        order.append(order.pop(0))
        for name, call in order:
            for states, first in zip(given[1:], fresh, strict=True):
                states.copy_(first)  # turned in place: a magnitude above 1 would grow without end
            call()  # the caches hold what the subject before left
            waited()
            started = time.perf_counter()
            for _ in range(repeat):
                call()
            waited()
            found[name].append(1e6 * (time.perf_counter() - started) / repeat)
    return found


def errors(modules: dict[str, nn.Module], tier: Tier, given: Inputs) -> dict[str, float]:
    """Mean absolute error of the rotated queries against float64."""
    positions, query, key = given
    tokens, head_size = len(positions), query.shape[-1] // HEADS
    frequencies = rescaled_inverse_frequencies(head_size, BASE, tier.factors)
    rows = cos_sin_rows(frequencies, LENGTH, attention_factor=tier.attention_factor, dtype=torch.float64)
    exact = apply_rotary(query.double().view(tokens, HEADS, head_size), rows[positions]).flatten(1)
    modules["ours"].take_rows(positions, torch.zeros_like(positions))  # type: ignore[operator]
    asked = {"stock": positions, "ours": torch.arange(tokens)}
    return {
        name: (modules[name](at, query.clone(), key.clone())[0].double() - exact).abs().mean().item()
        for name, at in asked.items()
    }


def line(tokens: int, head_size: int, measured: dict[str, list[float]], accuracy: dict[str, float]) -> str:
    """One row of the page; ratios are taken round by round."""
    rounds = list(zip(*(measured[name] for name in ("stock", "ours", "plain", "rows")), strict=True))
    model = [(stock, ours + rows / LAYERS, plain) for stock, ours, plain, rows in rounds]
    columns = [
        str(head_size),
        f"{tokens:,}",
        *(f"{statistics.median(measured[name]):,.1f}" for name in ("stock", "plain", "ours", "rows")),
        spread([stock / ours for stock, ours, _ in model], 1),
        spread([ours / plain for _, ours, plain, _ in rounds], 2),
        spread([ours / plain for _, ours, plain in model], 2),
        f"{accuracy['stock']:.2e}",
        f"{accuracy['ours']:.2e}",
    ]
    return "| " + " | ".join(columns) + " |"


def main() -> None:
    """Measure and write the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.set_default_device(asked.device)
    lines = [
        f"# Rotary embedding of a longrope checkpoint on {asked.device}",
        "",
        f"{HEADS} query and {KV_HEADS} key heads, bfloat16, positions up to {LENGTH:,}. Microseconds, medians of "
        f"{ROUNDS} rounds in turns on one thread; ratios round by round, with quartiles. 'rows' is read once a step, "
        f"the others run in every layer; 'in a model' shares the rows out over {LAYERS} layers. Errors: mean of the "
        "rotated queries against float64.",
        "",
        "| head size | tokens | stock | plain op | ours | rows | stock / ours, in a model | ours / plain op "
        "| ours / plain, in a model | error of stock | error of ours |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    with torch.inference_mode():
        for head_size in HEAD_SIZES:
            with tempfile.TemporaryDirectory() as folder:
                tier = checkpoint(Path(folder), head_size)
                modules = rotaries(Path(folder), head_size)
            for tokens in TOKENS:
                given = inputs(tokens, head_size)
                accuracy = errors(modules, tier, given)
                measured = times(calls(modules, given), given, repeat=max(1, REPEATS[asked.device] // tokens))
                lines.append(line(tokens, head_size, measured, accuracy))
    lines += ["", provenance(command_line("bench_rotary.py", sys.argv[1:]))]
    asked.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
