"""A training run of seconds: its command line, and what it left."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from longrope_training.metrics import read_metrics

LENGTHS = "512:3,1024:3"
STEPS = 6


def words(folder: Path, *more: str, out: str = "tuned") -> list[str]:
    """``longrope`` and its arguments: six steps of two rows, one of them short, on the files of the fixtures."""
    return [
        "train",
        str(folder / "model"),
        *("--factors", str(folder / "factors.json"), "--data", str(folder / "text.jsonl"), "--out", str(folder / out)),
        *("--stage", LENGTHS, "--batch", "2", "--short-share", "0.5", "--learning-rate", "1e-3"),
        *("--dtype", "float32", "--device", "cpu", "--save-every", "2", "--first-loss", "3", *more),
    ]


def losses(out: Path) -> list[tuple[float, ...]]:
    """Of each step: loss, that of long and of short rows (0 without any), norm of the gradient, learning rate."""
    names = ("loss", "loss_long", "loss_short", "grad_norm", "learning_rate")
    return [tuple(entry.get(name, 0.0) for name in names) for entry in read_metrics(out / "metrics.jsonl")]


def weights(out: Path) -> dict[str, Tensor]:
    """Of the tuned checkpoint."""
    return load_file(out / "model" / "model.safetensors")
