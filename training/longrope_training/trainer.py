"""transformers' Trainer, with a rope for each micro-batch, one loss over all tokens of a step, and whole checkpoints.

A micro-batch is one row of one kind. The tables of its rope are fixed and named by the row, so that nothing depends on
which positions a process happens to see. The loss of a step is the mean over all tokens that count in all of its rows,
whatever their kinds and wherever they are (LongRoPE2, arXiv 2502.20082, section 3.3: one loss, one run).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from longrope_training.batches import OWN, Batches, rope_of_stage
from longrope_training.checkpoints import Checkpoints, step_of
from longrope_training.data.schedule import Schedule
from longrope_training.learning_rate import learning_rates
from longrope_training.metrics import peak_memory
from longrope_training.model.loss_head import IGNORED, LossHead
from longrope_training.model.tier_rope import TierRope
from longrope_training.parallel import Processes
from longrope_training.recipe import Recipe
from longrope_training.room import room_for
from longrope_training.tally import Tally
from longrope_vllm.backward.offload import offloaded
from longrope_vllm.errors import TrainingError


class LongContextTrainer(Trainer):  # type: ignore[misc]
    """Trains on the rows of a recipe."""

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingArguments,
        *,
        recipe: Recipe,
        batches: Batches,
        schedule: Schedule,
        processes: Processes,
        rope: TierRope,
        head: LossHead,
        checkpoints: Checkpoints,
        callbacks: list[Any],
    ) -> None:
        super().__init__(model=model, args=settings, callbacks=callbacks)
        self.remove_callback(PrinterCallback)  # what is printed is ours
        self.model_accepts_loss_kwargs = False  # the loss is ours, and already that of the whole step
        self.tally = Tally([OWN, *map(rope_of_stage, range(len(recipe.stages)))], self.args.device)
        self._recipe = recipe
        self._batches = batches
        self._schedule = schedule
        self._processes = processes
        self._rope = rope
        self._head = head
        self._checkpoints = checkpoints
        self._begin = 0
        # A ring gives each process two distant parts of a row. transformers would take them for two documents and build
        # a mask of T times T, but takes a mask of four dimensions as it is; the ring's attention drops that.
        self._mask = torch.ones(1, 1, 1, 1, dtype=torch.bool) if recipe.parallel == "cp" else None

    def train_from(self, checkpoint: Path | None) -> None:
        """Train to the end, from ``checkpoint`` or from the first step."""
        self._begin = 0 if checkpoint is None else step_of(checkpoint)
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The rows of this process, from the step on that training begins with.

        Shared out here, not by accelerate, which knows nothing of the other processes on a CPU.
        """
        numbers = self._processes.rows(self._recipe, step=self._begin)
        whole = len(self._processes.rows(self._recipe, step=0))
        return _loader(self._batches, _Numbers(numbers, length=whole))

    def shared_out(self, batches: Any, model: nn.Module) -> Iterable[dict[str, Any]]:
        """``batches`` as the rows of a step come to this process: under Ulysses its part of each."""
        rank, ways = self._processes.rank % self._processes.ways, self._processes.ways
        numbers = list(range(rank, len(batches), ways)) if self._recipe.parallel == "sp" else list(range(len(batches)))
        loader = _loader(batches, _Numbers(numbers, length=len(numbers)))
        return self.accelerator.deepspeed_ulysses_dl_adapter(loader, model) if self._recipe.parallel == "sp" else loader

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This micro-batch's part of the mean loss of the step, times what the averages after it divide by."""
        loss, counted = self.summed_loss(model, inputs)
        self.tally.add(inputs["rope"], loss.detach(), counted, tokens=inputs["input_ids"].numel())
        return loss / inputs["step_targets"] * (self._processes.world * self.current_gradient_accumulation_steps)

    def summed_loss(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, int]:
        """Sum of the losses of what this process has of a micro-batch, float32 []; and of how many tokens."""
        targets = inputs.get("shift_labels")
        if targets is None:
            targets = nn.functional.pad(inputs["labels"], (0, 1), value=IGNORED)[..., 1:]
        self._rope.use(inputs["rope"])
        self._head.targets = targets
        try:
            with offloaded(self.args.device) if self._recipe.offload else nullcontext():
                found = model(
                    input_ids=inputs["input_ids"],
                    position_ids=inputs["position_ids"],
                    attention_mask=self._mask,
                    use_cache=False,
                )
        finally:
            self._head.targets = None
        return found.logits.sum(), int((targets != IGNORED).sum())

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called before each step of the optimizer, in all processes. Raises ``TrainingError`` for what is no number.

        No checkpoint is written of it. DeepSpeed has changed the weights by then, which are dropped.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        if not self.tally.finite() or not math.isfinite(_number(norm)):
            raise TrainingError(
                f"Expected losses and gradients that are numbers, found others at step {self.state.global_step + 1} of "
                f"{self._recipe.steps}: the checkpoints of the steps before are kept; train with a lower learning rate "
                "to another out."
            )
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A line of metrics: losses in nats by kind of row, tokens so far, tokens a second, bytes of memory."""
        if "loss" in logs:
            step = self.state.global_step - 1
            stage = self._schedule.stage_of(step)
            counted = self.tally.take()
            logs |= {"loss": counted.loss, "stage": stage + 1, "length": self._recipe.stages[stage].length}
            logs |= {f"loss_{'short' if rope == OWN else 'long'}": loss for rope, loss in counted.losses.items()}
            logs |= {
                "tokens": self._schedule.tokens_until(self.state.global_step),
                "tokens_per_second": counted.tokens / counted.seconds,
                "memory": peak_memory(self.args.device),
            }
        super().log(logs, start_time)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rates of the recipe."""
        rates = learning_rates(self._recipe)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: rates[min(step, len(rates) - 1)] / max(rates)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._checkpoints.staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write one and seal it, once all processes are done."""
        with room_for("a checkpoint", self._checkpoints.folder):
            if self._processes.first:
                self._checkpoints.clear_staging()
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self._processes.first:
                self._checkpoints.seal(self.state.global_step)
            self.accelerator.wait_for_everyone()


def _number(norm: Any) -> float:
    """Of a number, a tensor, one that FSDP shares out, or of none, where DeepSpeed has not taken it."""
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm or 0.0)


def _loader(batches: Any, numbers: Sampler[int]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=1, sampler=numbers, collate_fn=itemgetter(0))


class _Numbers(Sampler[int]):
    """Row numbers in their order; the length is that of the whole run, from which Trainer counts its steps."""

    def __init__(self, numbers: list[int], *, length: int) -> None:
        self._numbers = numbers
        self._length = length

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return self._length
