"""Rotary embedding of a longrope checkpoint: stock vLLM's class against ours and against the plain rope op.

    python benchmarks/bench_rotary.py --out benchmarks/results/rotary_cpu_DATE.md

2,048 tokens, 32 query heads, 8 key heads, head size 128, bfloat16, as an 8B model would ask for; the three take turns
in one process, so that the ratio holds whatever else the machine does. Under a minute on the CPU.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import vllm
from vllm.config import set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope import Phi3LongRoPEScaledRotaryEmbedding

from longrope_vllm import Factors, Geometry, write_rope
from longrope_vllm.plugin.rotary import TieredRotaryEmbedding
from longrope_vllm.rope import apply_rotary, cos_sin_rows, rescaled_inverse_frequencies

TOKENS, HEADS, KV_HEADS, HEAD_SIZE = 2_048, 32, 8, 128
WINDOW, LENGTH, BASE = 8_192, 131_072, 500_000.0
ROUNDS = 30


def checkpoint(folder: Path) -> Factors:
    """A configuration of an 8B Llama shape with a longrope block; no weights are needed."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HEADS * HEAD_SIZE,
        "intermediate_size": 14_336,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": 1,
        "vocab_size": 128,
        "head_dim": HEAD_SIZE,
        "max_position_embeddings": WINDOW,
        "rope_theta": BASE,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    factors = Factors.from_baseline("yarn", Geometry.from_checkpoint(folder), LENGTH)
    write_rope(folder, factors)
    return factors


def rotaries(folder: Path) -> dict[str, torch.nn.Module]:
    """The three embeddings, made in vLLM's own configuration context."""
    config = EngineArgs(model=str(folder), skip_tokenizer_init=True, enforce_eager=True).create_engine_config()
    block = json.loads((folder / "config.json").read_text())["rope_scaling"]
    common = {"head_size": HEAD_SIZE, "rotary_dim": HEAD_SIZE, "base": BASE, "is_neox_style": True}
    common |= {"max_position_embeddings": LENGTH, "dtype": torch.bfloat16}
    longrope = {key: block[key] for key in ("short_factor", "long_factor", "short_mscale", "long_mscale")}
    longrope |= {"original_max_position_embeddings": WINDOW}
    with set_current_vllm_config(config):
        return {
            "stock longrope": Phi3LongRoPEScaledRotaryEmbedding(**common, **longrope),
            "longrope-vllm": TieredRotaryEmbedding(**common, **longrope),
            "plain rope op": RotaryEmbedding(**common),
        }


def errors(rotary: torch.nn.Module, factors: Factors, inputs: tuple[torch.Tensor, ...]) -> float:
    """Mean absolute error of the rotated queries against float64."""
    positions, query, key = inputs
    tier = factors.tiers[-1]
    frequencies = rescaled_inverse_frequencies(factors.rotary_dim, factors.base, tier.factors)
    rows = cos_sin_rows(frequencies, LENGTH, attention_factor=tier.attention_factor, dtype=torch.float64)
    exact = apply_rotary(query.double().view(TOKENS, HEADS, HEAD_SIZE), rows[positions]).flatten(1)
    found, _ = rotary(positions, query.clone(), key.clone())
    return (found.double() - exact).abs().mean().item()


def times(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of each call, the calls taking turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            found[name].append(1000 * (time.perf_counter() - started))
    return found


def main() -> None:
    """Measure and write the results page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        factors = checkpoint(Path(folder))
        modules = rotaries(Path(folder))
    positions = torch.arange(LENGTH - TOKENS, LENGTH)
    query = torch.randn(TOKENS, HEADS * HEAD_SIZE, dtype=torch.bfloat16)
    key = torch.randn(TOKENS, KV_HEADS * HEAD_SIZE, dtype=torch.bfloat16)
    with torch.inference_mode():
        calls = {
            name: lambda module=module: module(positions, query.clone(), key.clone())
            for name, module in modules.items()
        }
        calls["copy of the inputs"] = lambda: (query.clone(), key.clone())
        measured = times(calls)
        accuracy = {name: errors(module, factors, (positions, query, key)) for name, module in modules.items()}
    copies = statistics.median(measured.pop("copy of the inputs"))
    medians = {name: statistics.median(found) - copies for name, found in measured.items()}
    ours = medians["longrope-vllm"]
    lines = [
        "# Rotary embedding of a longrope checkpoint on the CPU",
        "",
        f"{TOKENS:,} tokens, {HEADS} query and {KV_HEADS} key heads of {HEAD_SIZE}, bfloat16, positions up to "
        f"{LENGTH:,}; median of {ROUNDS} rounds in turns, less the copy of the inputs that each call makes.",
        "",
        "| rotary embedding | ms | times ours | mean error against float64 |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {found:.3f} | {found / ours:.2f} | "
            + (f"{accuracy[name]:.2e} |" if name != "plain rope op" else "(another rotation) |")
            for name, found in medians.items()
        ),
        "",
        f"- command: `python benchmarks/bench_rotary.py`; vLLM {vllm.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {torch.get_num_threads()} threads of {cpu_name()}.",
    ]
    asked.out.write_text("\n".join(lines) + "\n")


def cpu_name() -> str:
    """Model name of the processor, from the kernel."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
