"""What a run writes about itself at every step: a line of JSON, and TensorBoard through transformers.

``metrics.jsonl`` holds each step once, also after a run was interrupted and went on from an earlier checkpoint: the
steps that are trained again replace the lines they had.
"""

import json
import resource
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from longrope_vllm.atomic import write_atomically


class Metrics(TrainerCallback):  # type: ignore[misc]
    """Writes ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Lines of the steps that the checkpoint knows stay."""
        lines = [json.dumps(entry) + "\n" for entry in state.log_history if "loss" in entry]
        write_atomically(self._path, "".join(lines))

    def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """One line for a step."""
        entry = state.log_history[-1]
        if "loss" in entry:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, one a step."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has taken at most: of the GPU, or of the host where there is none."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
