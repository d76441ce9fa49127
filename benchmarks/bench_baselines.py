"""Closed-form factors on the demo model past its window: perplexity, and the preset made from the best.

    python benchmarks/bench_baselines.py --out benchmarks/results/baselines_cpu_DATE.md [--preset FILE]

In: SmolLM2-135M-Instruct (the demo's model, trained window 8,192), real text that Python itself carries. Each method
runs once over each document of 16,384 tokens in bfloat16; a causal model's losses of the first tokens are those of a
shorter document, so one pass gives every length. About six minutes on two CPU cores.
"""

import argparse
import sys
import sysconfig
from pathlib import Path

import torch
import transformers
from torch import Tensor

from longrope_vllm import Factors, Geometry, Origin, Tier, write_factors
from longrope_vllm.demo.document import reference_text
from longrope_vllm.demo.model import NAME, demo_model
from longrope_vllm.evaluation.perplexity import perplexity, token_losses
from longrope_vllm.factors import own_tier
from longrope_vllm.hf import fixed_rope
from report import provenance

LENGTH = 16_384
METHODS = ("none", "pi", "ntk", "yarn")
CANDIDATES = ("pi", "ntk", "yarn")
LAST = 1_024
DOCUMENTS = 2


def source_text() -> str:
    """Python source of the standard library, in a fixed order: about two documents' worth and some."""
    folder = Path(sysconfig.get_path("stdlib"))
    return "\n\n".join((folder / f"{name}.py").read_text() for name in ("argparse", "typing", "tarfile", "inspect"))


def factors_for(method: str, geometry: Geometry) -> Factors:
    """Tiers for ``method`` at ``LENGTH``; "none" is the plain rope all the way."""
    if method != "none":
        return Factors.from_baseline(method, geometry, LENGTH, model=NAME)
    plain = Tier(max_length=LENGTH, factors=own_tier(geometry).factors)
    return Factors(
        rotary_dim=geometry.rotary_dim,
        base=geometry.base,
        trained_window=geometry.trained_window,
        tiers=(plain,),
        origin=Origin(method="none"),
    )


def measure(
    model: torch.nn.Module, geometry: Geometry, documents: dict[str, list[Tensor]]
) -> dict[str, dict[str, float]]:
    """Method to column to perplexity."""
    table: dict[str, dict[str, float]] = {}
    for method in METHODS:
        losses = {}
        with fixed_rope(model, factors_for(method, geometry), length=LENGTH):
            for kind, texts in documents.items():
                losses[kind] = torch.stack([token_losses(model, tokens) for tokens in texts])
                print(f"{method:5} {kind:10} {perplexity(losses[kind]):8.2f}", file=sys.stderr, flush=True)
        row = {}
        for kind, found in losses.items():
            for length in (8_192, 12_288, LENGTH):
                row[f"{kind} {length}"] = perplexity(found[:, : length - 1])
            row[f"{kind} last {LAST}"] = perplexity(found[:, -LAST:])
        row[f"all last {LAST}"] = perplexity(torch.cat(list(losses.values()))[:, -LAST:])
        table[method] = row
    return table


def markdown(table: dict[str, dict[str, float]]) -> str:
    """The results page."""
    columns = list(table["none"])
    lines = [
        "# Closed-form factors past the trained window: SmolLM2-135M-Instruct, 8k to 16k",
        "",
        f"Perplexity, token-weighted, bfloat16, {DOCUMENTS} documents of {LENGTH:,} tokens of each kind; "
        f"'last {LAST}' is the end of the {LENGTH:,}-token documents.",
        "",
        "| method | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * len(columns),
        *(f"| {method} | " + " | ".join(f"{row[c]:.2f}" for c in columns) + " |" for method, row in table.items()),
        "",
        "- prose: the language reference in Python's `pydoc_data`; source: modules of its standard library.",
        provenance("python benchmarks/bench_baselines.py", "transformers"),
        f"- two documents a kind, one model: an order of the methods, no confidence interval. The demo serves the best "
        f"of {', '.join(CANDIDATES)} by 'all last {LAST}'.",
    ]
    return "\n".join(lines) + "\n"


def preset(geometry: Geometry, table: dict[str, dict[str, float]], page: str) -> Factors:
    """Factors of the best candidate, with what was measured."""
    scores = {method: round(table[method][f"all last {LAST}"], 2) for method in CANDIDATES}
    best = min(scores, key=scores.__getitem__)
    factors = Factors.from_baseline(best, geometry, LENGTH)
    listed = ", ".join(f"{method} {score}" for method, score in scores.items())
    origin = Origin(
        method=best,
        model=NAME,
        command="python benchmarks/bench_baselines.py",
        note=f"{best}, the lowest perplexity of the last {LAST} tokens at {LENGTH} ({listed}); not searched yet",
        measurements={f"perplexity_last_{LAST}_of_{LENGTH}": scores, "page": page},
    )
    return Factors(**{**vars(factors), "origin": origin})


def main() -> None:
    """Measure, then write the page and, when asked, the preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", type=Path)
    asked = parser.parse_args()
    path = demo_model(lambda line: print(line, file=sys.stderr))
    geometry = Geometry.from_checkpoint(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    documents = {}
    for kind, text in (("prose", reference_text()), ("source", source_text())):
        tokens = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
        documents[kind] = list(tokens[: DOCUMENTS * LENGTH].split(LENGTH))
        assert len(documents[kind]) == DOCUMENTS, f"{kind} is too short: {len(tokens)} tokens"
    table = measure(model, geometry, documents)
    asked.out.write_text(markdown(table))
    if asked.preset:
        write_factors(asked.preset, preset(geometry, table, asked.out.name))


if __name__ == "__main__":
    main()
