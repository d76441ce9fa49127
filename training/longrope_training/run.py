"""One training run from recipe to checkpoint: check, prepare text, train, export; each part goes on where it stopped.

In the output folder: ``recipe.json`` (what decides the result), ``data/`` (token streams), ``checkpoints/``,
``metrics.jsonl``, ``tensorboard/``, ``loss.png``, ``model/``, the tuned checkpoint, and of adapters ``adapter/``.
"""

import fcntl
import json
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console

from longrope_training.batches import Batches, Beginnings
from longrope_training.checkpoints import Checkpoints, step_of
from longrope_training.data.histogram import prepared
from longrope_training.data.prepare import prepare
from longrope_training.data.rows import Rows
from longrope_training.data.schedule import Schedule
from longrope_training.data.streams import Streams
from longrope_training.export import export, keep_adapters
from longrope_training.first_loss import FirstLoss
from longrope_training.fit import Fit, check_fit
from longrope_training.loss_plot import loss_png
from longrope_training.memory_plan import TrainingMemory, plan_of
from longrope_training.metrics import Metrics, read_metrics
from longrope_training.model.adapters import trainable_share
from longrope_training.model.load import load
from longrope_training.model_card import model_card
from longrope_training.parallel import Processes
from longrope_training.progress import TextWatch, Watch
from longrope_training.recipe import Recipe
from longrope_training.sharing import settled
from longrope_training.trainer import LongContextTrainer
from longrope_training.trainer_settings import trainer_settings
from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import TrainingError
from longrope_vllm.evaluation.exclusive import exclusive
from longrope_vllm.evaluation.loading import tokenizer_at
from longrope_vllm.evaluation.settings import checkpoint_identity

_UNCHANGED = ("out", "device", "save_every", "keep", "first_loss", "checkpointing", "offload", "mlp_tokens")
"""Fields of a recipe that do not change the result."""

_PATIENCE = 120.0
"""Seconds that other processes wait for what the first one writes."""


def train(recipe: Recipe, console: Console) -> Path:
    """Train, and return the folder of the tuned checkpoint. Raises ``LongRopeError``."""
    recipe = settled(recipe)
    fit = check_fit(recipe)
    processes = Processes.of(recipe)
    if fit.device.type == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # before memory is looked at, on this process's own GPU
    shown = console if processes.first else Console(quiet=True)
    shown.print(processes.told(recipe, gpus=torch.cuda.device_count() if fit.device.type == "cuda" else 0))
    run = _Run(recipe=recipe, fit=fit, processes=processes, memory=plan_of(recipe, fit), console=shown)
    with run.held():
        run.keep_recipe()
        shown.print(str(run.memory))
        run.memory.check()
        streams = run.text()
        last = run.checkpoints.newest()
        unfinished = last is None or step_of(last) < recipe.steps
        if unfinished:
            run.train(streams, last)
        if processes.first and (unfinished or not run.model.is_dir()):
            run.finish(streams)
        if processes.first:
            shown.print(f"tuned checkpoint: {run.model}")
    return run.model


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A recipe that can be run, on its way."""

    recipe: Recipe
    fit: Fit
    processes: Processes
    memory: TrainingMemory
    console: Console

    @property
    def model(self) -> Path:
        """Folder of the tuned checkpoint."""
        return self.recipe.out / "model"

    @property
    def adapters(self) -> bool:
        """True when low-rank adapters are trained, not all weights."""
        return self.memory.layout.tuning == "lora"

    @property
    def checkpoints(self) -> Checkpoints:
        """Those of this run."""
        return Checkpoints(folder=self.recipe.out / "checkpoints", keep=self.recipe.keep)

    @cached_property
    def schedule(self) -> Schedule:
        """All rows."""
        return Schedule.of(self.recipe, window=self.fit.own.max_length)

    def held(self) -> AbstractContextManager[None]:
        """The output folder, for this run alone."""
        return exclusive(self.recipe.out) if self.processes.first else nullcontext()

    def keep_recipe(self) -> None:
        """Write down what decides the result, or raise ``TrainingError`` where something else is written."""
        stated = {name: value for name, value in asdict(self.recipe).items() if name not in _UNCHANGED}
        stated |= {
            "model": checkpoint_identity(self.recipe.model).rpartition(" ")[2],  # wherever it lies
            "processes": self.processes.world,
            "factors": [asdict(one.tier) for one in self.fit.stages],
        }
        now = json.loads(json.dumps(stated, default=str))
        path = self.recipe.out / "recipe.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
            if changed:
                raise TrainingError(
                    f"Expected the recipe that {self.recipe.out} was begun with, found another "
                    f"{' and '.join(changed)}: give another out, or remove the folder."
                )
        elif self.processes.first:
            write_atomically(path, json.dumps(now, indent=2) + "\n")
        else:
            _wait_for(path)

    def text(self) -> Streams:
        """The rows' text, prepared by the first process that comes; the others on its file system wait for it."""
        recipe = self.recipe
        recipe.out.mkdir(parents=True, exist_ok=True)
        with (recipe.out / ".data.lock").open("w") as lock, TextWatch(self.console) as told:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back when closed, however the process ends
            streams = prepare(recipe, self.schedule, tokenizer_at(str(recipe.model)), told=told)
        self.console.print(prepared(streams))
        return streams

    def train(self, streams: Streams, last: Path | None) -> None:
        """From the ``last`` complete checkpoint, or from the first step."""
        recipe, checkpoints = self.recipe, self.checkpoints
        for torn in checkpoints.torn() if self.processes.first else ():
            self.console.print(f"passed over, because parts of it are missing: {torn}")
        settings = trainer_settings(recipe, self.processes)  # before the model: they say how weights are shared out
        model = load(recipe, self.fit, adapters=self.adapters)
        trained, weights = trainable_share(model.module)
        done = 0 if last is None else step_of(last)
        self.console.print(f"training {trained:,} of {weights:,} weights from step {done:,} to {recipe.steps:,}")
        rows = Rows(streams, self.schedule, seed=recipe.seed)
        checks = (
            [] if recipe.first_loss is None or last is not None else [self._first_loss(rows, limit=recipe.first_loss)]
        )
        watch = Watch(self.console, self.schedule)
        watching = [Metrics(recipe.out / "metrics.jsonl"), watch]
        checkpoints.folder.mkdir(exist_ok=True)
        trainer = LongContextTrainer(
            model.module,
            settings,
            recipe=recipe,
            batches=Batches(rows, self.schedule),
            schedule=self.schedule,
            processes=self.processes,
            rope=model.rope,
            head=model.head,
            checkpoints=checkpoints,
            callbacks=[*checks, *(watching if self.processes.first else [])],
        )
        for check in checks:
            check.trainer = trainer
        with watch if self.processes.first else nullcontext():
            trainer.train_from(last)

    def finish(self, streams: Streams) -> None:
        """Draw the course, and export the last checkpoint."""
        last = self.checkpoints.newest()
        assert last is not None, "the last step is always a checkpoint"
        metrics = read_metrics(self.recipe.out / "metrics.jsonl")
        picture = loss_png(metrics)
        write_atomically(self.recipe.out / "loss.png", picture)
        if self.adapters:
            keep_adapters(last, self.recipe.out / "adapter")
        export(
            last,
            self.recipe.model,
            self.fit.stages[-1].factors,
            adapters=self.adapters,
            folder=self.model,
            card=model_card(self.recipe, self.fit, streams=streams, metrics=metrics),
            picture=picture,
        )

    def _first_loss(self, rows: Rows, *, limit: float) -> FirstLoss:
        ways = self.processes.ways
        first = sum(self.schedule.slot(row).kind == "long" for row in range(self.recipe.batch))
        beginnings = Beginnings(
            rows,
            self.schedule,
            tokens=self.fit.own.max_length // ways * ways,
            count=-(-max(first, 1) // ways) * ways if self.recipe.parallel == "sp" else max(first, 1),
        )
        return FirstLoss(beginnings, limit=limit)


def _wait_for(path: Path) -> None:
    """Until the first process has written ``path``. Raises ``TrainingError`` where it cannot be seen."""
    end = time.monotonic() + _PATIENCE
    while not path.is_file():
        if time.monotonic() > end:
            raise TrainingError(
                f"Expected {path}, which the first process writes, found none after {_PATIENCE:.0f} s: all nodes have "
                "to see the same output folder, so put it on a file system that they share."
            )
        time.sleep(0.2)
