"""The public LongRoPE research code's own search (``dim_mono``) on a tiny model, on the CPU: the peer of ours.

    python benchmarks/search_public_code.py --model CHECKPOINT --documents DOCUMENTS.json --seed 42 --work FOLDER

DOCUMENTS.json holds ``{"length": T, "documents": [[token ids], ...]}``, T being the target length. CHECKPOINT is a
Llama in float32 whose head size is hidden size over heads: the public code takes no other. FOLDER gets the code at
``COMMIT``, a venv for it, and ``public_curve_seed42.json`` with the best mean loss in nats after every evaluation.

Nothing of that code is part of this project, and its environment is not ours: it needs a transformers whose layers
rotate by themselves, the last of which is 4.42. From 4.43 on its rope swap is ignored and every candidate scores alike.

``PATCHES`` is what a machine without a GPU needs: no CUDA calls, float32, a seed that can be chosen, and no full
garbage collection after every document, which takes longer than a tiny model. None changes what is searched.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CODE = "https://github.com/microsoft/LongRoPE"
COMMIT = "c9e56aa54007c328399677232a489feec446e4b8"
PACKAGES = (
    "torch==2.13.0",
    "transformers==4.41.2",
    "datasets==2.18.0",
    "numpy==1.26.4",
    "pyarrow<18",
    "accelerate",
    "einops",
    "tqdm",
)
PATCHES = {
    "evolution/search.py": [
        ("torch.cuda.mem_get_info()[1] / (1024 ** 3) * 0.8", "64.0"),
        ("seed: int = 42", "seed: int = int(os.environ['SEARCH_SEED'])"),
    ],
    "evolution/evaluate.py": [
        ("torch.float16", "torch.float32"),
        ("'device_map': 'auto'", "'device_map': None"),
        ("'device': 'cuda'", "'device': 'cpu'"),
    ],
    "evaluation/perplexity.py": [
        ("with torch.cuda.device(device):", "if True:"),
        ("gc.collect()", "pass"),
    ],
}


def fetched(work: Path) -> Path:
    """The public code at ``COMMIT``, patched."""
    code = work / "code"
    if not code.exists():
        subprocess.run(["git", "clone", "--quiet", os.environ.get("PUBLIC_CODE", CODE), code], check=True)
    subprocess.run(["git", "-C", code, "checkout", "--quiet", "--force", COMMIT], check=True)
    for name, replacements in PATCHES.items():
        text = (code / name).read_text()
        for old, new in replacements:
            assert old in text, f"{old} is not in {name}"
            text = text.replace(old, new)
        (code / name).write_text(text)
    return code


def environment(work: Path) -> Path:
    """The folder of programs of a venv with ``PACKAGES``."""
    venv = work / "venv"
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "--quiet", *PACKAGES], check=True)
    return venv / "bin"


def old_spelling(model: Path, folder: Path) -> Path:
    """A copy of ``model`` as transformers 4 writes it: the rope base beside the other fields, a tokenizer it knows."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model / "model.safetensors", folder)
    shutil.copy(model / "tokenizer.json", folder)
    config = json.loads((model / "config.json").read_text())
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


WRITE_DATASET = """
import json, sys, datasets
rows = json.load(open(sys.argv[1]))["documents"]
masks, lengths = [[1] * len(row) for row in rows], [len(row) for row in rows]
columns = {"input_ids": rows, "attention_mask": masks, "tokenized_len": lengths}
datasets.Dataset.from_dict(columns).save_to_disk(sys.argv[2])
"""
"""Run by the venv, whose ``datasets`` must be able to read it."""


def searched(code: Path, programs: Path, model: Path, dataset: Path, out: Path, *, asked: dict[str, int]) -> None:
    """One search with the default hyper-parameters (64 + 40 x 32 evaluations); the log is left in ``out``."""
    options: dict[str, object] = {
        "model": model,
        "tokenized": dataset,
        "algorithm": "dim_mono",
        "output-dir": out,
        "target-length": asked["length"],
        "dataset-min-tokens": asked["length"],  # left out, the evaluator is started with "None" and dies unnoticed
        "samples": asked["documents"],
        "num-proc": 1,
        "attn-implementation": "sdpa",
        "devices": 0,
        "model-size-gb": 1,
    }
    command = [programs / "python", "evolution/search.py", "--truncate"]
    command += [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"  # it starts its evaluator as "python"
    variables = os.environ | {"PATH": path, "SEARCH_SEED": str(asked["seed"])}
    subprocess.run(command, cwd=code, env=variables, check=True)


def curve(out: Path, *, asked: dict[str, int], seconds: float) -> dict[str, object]:
    """What came of it, from the history in the last log: the candidates in the order in which they were scored."""
    (log,) = out.glob("log-*.json")
    history = json.loads(log.read_text())["history"]
    first, started = history[0], history[1:127]
    history = [first, *started[::2], *history[127:]]  # mutants of the first population are entered twice
    losses = [math.log(perplexity) for _, perplexity in history]
    best = [min(losses[: count + 1]) for count in range(len(losses))]
    final = [float(line) for line in (out / "result_final.csv").read_text().split()]
    return asked | {
        "evaluations": len(losses),
        "target": asked["length"],
        "best_by_evaluation": best,
        "losses": losses,
        "final_factors": final,
        "attention_factor": "su",
        "seconds": seconds,
    }


def main() -> None:
    """Fetch, patch, search, and write the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=42, help="theirs is always 42")
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    work = given.work.resolve()
    documents = json.loads(given.documents.read_text())
    asked = {"seed": given.seed, "documents": len(documents["documents"]), "length": documents["length"]}
    code, programs, out = fetched(work), environment(work), work / f"seed{given.seed}"
    shutil.rmtree(out, ignore_errors=True)
    model, dataset = old_spelling(given.model, work / "model"), work / "dataset"
    subprocess.run([programs / "python", "-c", WRITE_DATASET, given.documents, dataset], check=True)
    started = time.monotonic()
    searched(code, programs, model, dataset, out, asked=asked)
    found = curve(out, asked=asked, seconds=time.monotonic() - started)
    (work / f"public_curve_seed{given.seed}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
