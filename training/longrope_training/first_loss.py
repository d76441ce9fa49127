"""Is the rope there? The first long rows under their factors, against the checkpoint within its window.

A rope that did not take, or factors of another model, show in the very first loss: it is nats above what the
checkpoint has on the beginning of the same rows under its own rope. Training then would repair a fault instead of
teaching a length, so the run ends before a weight is changed.
"""

from typing import Any

import torch
from torch import distributed as dist
from transformers import TrainerCallback

from longrope_training.batches import Beginnings, rope_of_stage
from longrope_training.trainer import LongContextTrainer
from longrope_vllm.errors import TrainingError


class FirstLoss(TrainerCallback):  # type: ignore[misc]
    """Checks once, before the first step of the optimizer."""

    def __init__(self, beginnings: Beginnings, *, limit: float) -> None:
        """``limit`` nats above the checkpoint's own loss are let pass."""
        self._beginnings = beginnings
        self._limit = limit
        self._own: float | None = None
        self.trainer: LongContextTrainer | None = None
        """Set once there is one."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Measure the checkpoint within its window, before its first step."""
        if state.global_step == 0 and self._own is None:
            assert self.trainer is not None
            self._own = self._measure(self.trainer, rest["model"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Raise ``TrainingError`` when the first long rows are too far above it."""
        if state.global_step > 0:
            return
        assert self.trainer is not None
        assert self._own is not None
        found = self.trainer.tally.loss(rope_of_stage(0))
        if found is not None and found > self._own + self._limit:
            raise TrainingError(
                f"Expected a first loss within {self._limit:g} nats of the {self._own:.3f} that the checkpoint has "
                f"within its window, found {found:.3f} under the factors of the first stage: check that they were made "
                "for this checkpoint, or state a first_loss above the difference."
            )

    def _measure(self, trainer: LongContextTrainer, model: torch.nn.Module) -> float:
        sums = torch.zeros(2, dtype=torch.float64, device=trainer.args.device)
        model.train()  # Ulysses leaves a row in parts otherwise
        with torch.no_grad():
            for batch in trainer.shared_out(self._beginnings, model):
                loss, counted = trainer.summed_loss(model, trainer._prepare_inputs(batch))
                sums += torch.tensor([loss.item(), counted], dtype=torch.float64, device=sums.device)
        if dist.is_initialized():
            dist.all_reduce(sums)
        return (sums[0] / sums[1]).item()
