"""Peak memory and time of the perplexity of one document: lm head in chunks against all logits at once.

    python benchmarks/bench_perplexity.py --out benchmarks/results/perplexity_cpu_DATE.md

SmolLM2-135M-Instruct in bfloat16 with its own rope, on the language reference that Python carries. The peer is the loss
that transformers computes from the logits of the whole document. Each measurement has a process of its own, so that its
peak is its own; what the loaded model takes is measured before the pass and taken off. About eight minutes on two CPU
cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers

from longrope_vllm.demo.document import reference_text
from longrope_vllm.demo.model import demo_model
from longrope_vllm.evaluation.perplexity import perplexity, token_losses
from longrope_vllm.lengths import format_length
from report import command_line, provenance

LENGTHS = (4_096, 8_192, 16_384, 32_768)
ALL_LOGITS_UP_TO = 16_384
"""Beyond, all logits of this vocabulary take more than half of this machine's memory."""


def measure(mode: str, length: int) -> dict[str, float]:
    """Perplexity, seconds, and the peak of memory above the loaded model in MB."""
    path = demo_model(lambda line: None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokens = torch.tensor(tokenizer(reference_text(), verbose=False)["input_ids"][:length])
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    token_losses(model, tokens[:512])  # what is allocated once
    before = peak()
    started = time.monotonic()
    if mode == "chunks":
        found = perplexity(token_losses(model, tokens))
    else:
        with torch.inference_mode():
            found = model(tokens[None], labels=tokens[None], use_cache=False).loss.exp().item()
    return {"perplexity": found, "seconds": time.monotonic() - started, "megabytes": peak() - before}


def peak() -> float:
    """Largest resident size of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_its_own_process(mode: str, length: int) -> dict[str, float]:
    """``measure`` in a fresh process."""
    command = [sys.executable, __file__, "--measure", mode, str(length)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{mode} {length}: {found}", file=sys.stderr, flush=True)
    return found


def markdown(chunks: dict[int, dict[str, float]], all_logits: dict[int, dict[str, float]]) -> str:
    """The results page."""
    lines = [
        "# Perplexity of one document: lm head in chunks against all logits at once",
        "",
        "SmolLM2-135M-Instruct (vocabulary 49,152), bfloat16, one pass; peak memory above the loaded model, in MB.",
        "",
        "| tokens | chunks, MB | all logits, MB | ratio | chunks, s | all logits, s | perplexity | of all logits |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for length, ours in chunks.items():
        theirs = all_logits.get(length)
        cells = [format_length(length), f"{ours['megabytes']:,.0f}"]
        if theirs is None:
            cells += ["–", "–", f"{ours['seconds']:.1f}", "–", f"{ours['perplexity']:.3f}", "–"]
        else:
            cells += [
                f"{theirs['megabytes']:,.0f}",
                f"{theirs['megabytes'] / ours['megabytes']:.1f}",
                f"{ours['seconds']:.1f}",
                f"{theirs['seconds']:.1f}",
                f"{ours['perplexity']:.3f}",
                f"{theirs['perplexity']:.3f}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"- all logits were not run past {format_length(ALL_LOGITS_UP_TO)}: they do not fit beside anything else.",
        "- seconds are of one pass each: they say no more than that chunks cost no time.",
        provenance(command_line("bench_perplexity.py", sys.argv[1:]), "transformers"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the page; with ``--measure`` one measurement, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("MODE", "TOKENS"), help="one measurement, in this process")
    asked = parser.parse_args()
    if asked.measure:
        mode, length = asked.measure
        print(json.dumps(measure(mode, int(length))))
        return
    chunks = {length: in_its_own_process("chunks", length) for length in LENGTHS}
    all_logits = {length: in_its_own_process("all logits", length) for length in LENGTHS if length <= ALL_LOGITS_UP_TO}
    asked.out.write_text(markdown(chunks, all_logits))


if __name__ == "__main__":
    main()
