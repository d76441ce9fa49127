"""Training by length on a model of Llama 3's shape with 8B random weights: what fits, and how fast it is.

    python benchmarks/gpu/train_8b.py TOKENIZER [--layers 32] --documents SOURCE --plain 8k --ours 32k,64k --out PAGE.md

Makes the checkpoint (16 GB, for the time of the run) and hands it and all other options to ``bench_training.py``.
TOKENIZER is a checkpoint whose tokenizer it takes. Losses of random weights mean nothing; memory and time do not
depend on what the weights are. Fewer layers are for trying it out.
"""

import argparse
import gc
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
}


def main() -> int:
    """Make the checkpoint, measure, and put it away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", metavar="TOKENIZER")
    parser.add_argument("--layers", type=int, default=32, help="hidden layers (32)")
    given, options = parser.parse_known_args()
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_default_dtype(torch.bfloat16)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "llama-shaped-8b"
        LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=given.layers)).save_pretrained(folder)
        gc.collect()
        torch.cuda.empty_cache()  # what measures is a process of its own
        AutoTokenizer.from_pretrained(given.tokenizer).save_pretrained(folder)
        bench = Path(__file__).parents[1] / "bench_training.py"
        return subprocess.run([sys.executable, str(bench), str(folder), *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
