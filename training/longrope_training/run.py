"""One training run from recipe to checkpoint: check, prepare text, train, export; each part goes on where it stopped.

In the output folder: ``recipe.json`` (what decides the result), ``data/`` (token streams), ``checkpoints/``,
``metrics.jsonl``, ``tensorboard/``, ``loss.png`` and ``model/``, the tuned checkpoint.
"""

import fcntl
import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainingArguments

from longrope_training.batches import Batches, Beginnings
from longrope_training.checkpoints import Checkpoints, step_of
from longrope_training.data.histogram import prepared
from longrope_training.data.prepare import prepare
from longrope_training.data.rows import Rows
from longrope_training.data.schedule import Schedule
from longrope_training.data.streams import Streams
from longrope_training.export import export
from longrope_training.first_loss import FirstLoss
from longrope_training.fit import Fit, check_fit
from longrope_training.loss_plot import loss_png
from longrope_training.memory_plan import plan_of
from longrope_training.metrics import Metrics, read_metrics
from longrope_training.model.adapters import trainable_share
from longrope_training.model.load import TrainedModel, load
from longrope_training.model_card import model_card
from longrope_training.parallel import Processes, parallel_settings
from longrope_training.progress import TextWatch, Watch
from longrope_training.recipe import Recipe
from longrope_training.trainer import LongContextTrainer
from longrope_vllm.atomic import write_atomically
from longrope_vllm.errors import TrainingError
from longrope_vllm.evaluation.exclusive import exclusive
from longrope_vllm.evaluation.loading import device_named, tokenizer_at

_UNCHANGED = ("out", "device", "save_every", "keep", "first_loss", "checkpointing", "offload", "mlp_tokens")
"""Fields of a recipe that do not change the result."""


def train(recipe: Recipe, console: Console) -> Path:
    """Train, and return the folder of the tuned checkpoint. Raises ``LongRopeError`` and ``OSError``."""
    processes = Processes.of(recipe)
    fit = check_fit(recipe)
    memory = plan_of(recipe, fit)
    adapters = memory.layout.tuning == "lora"
    console = console if processes.first else Console(quiet=True)
    with _held(recipe.out, processes):
        _same_recipe(recipe, fit, processes)
        console.print(str(memory))
        memory.check()
        schedule = Schedule.of(recipe, window=fit.own.max_length)
        streams = _text(recipe, schedule, console)
        checkpoints = Checkpoints(folder=recipe.out / "checkpoints", keep=recipe.keep)
        last = checkpoints.newest()
        if last is None or step_of(last) < recipe.steps:
            _train(recipe, fit, processes, schedule, streams, checkpoints, console, adapters=adapters)
        if processes.first:
            _finish(recipe, fit, streams, checkpoints, adapters=adapters)
            console.print(f"tuned checkpoint: {recipe.out / 'model'}")
    return recipe.out / "model"


def _text(recipe: Recipe, schedule: Schedule, console: Console) -> Streams:
    """The rows' text, prepared by the first process that comes; the others on its file system wait for it."""
    recipe.out.mkdir(parents=True, exist_ok=True)
    with (recipe.out / ".data.lock").open("w") as lock, TextWatch(console) as told:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when closed, however the process ends
        streams = prepare(recipe, schedule, tokenizer_at(str(recipe.model)), told=told)
    console.print(prepared(streams))
    return streams


def _train(
    recipe: Recipe,
    fit: Fit,
    processes: Processes,
    schedule: Schedule,
    streams: Streams,
    checkpoints: Checkpoints,
    console: Console,
    *,
    adapters: bool,
) -> None:
    for torn in checkpoints.torn():
        console.print(f"passed over, because parts of it are missing: {torn}")
    last = checkpoints.newest()
    settings = _settings(recipe, processes)  # before the model: it says how weights are shared out
    model = load(recipe, fit, adapters=adapters)
    trained, weights = trainable_share(model.module)
    console.print(f"training {trained:,} of {weights:,} weights for {recipe.steps:,} steps from step {_step(last):,}")
    rows = Rows(streams, schedule, seed=recipe.seed)
    first = (
        [] if recipe.first_loss is None or last is not None else [_first_loss(recipe, fit, rows, schedule, processes)]
    )
    watching = [Metrics(recipe.out / "metrics.jsonl"), Watch(console, schedule)] if processes.first else []
    trainer = _trainer(recipe, processes, schedule, rows, model, checkpoints, settings, [*first, *watching])
    for check in first:
        check.trainer = trainer
    trainer.train_from(last)


def _trainer(
    recipe: Recipe,
    processes: Processes,
    schedule: Schedule,
    rows: Rows,
    model: TrainedModel,
    checkpoints: Checkpoints,
    settings: TrainingArguments,
    callbacks: list[Any],
) -> LongContextTrainer:
    checkpoints.folder.mkdir(exist_ok=True)
    return LongContextTrainer(
        model.module,
        settings,
        recipe=recipe,
        batches=Batches(rows, schedule),
        schedule=schedule,
        processes=processes,
        rope=model.rope,
        head=model.head,
        checkpoints=checkpoints,
        callbacks=callbacks,
    )


def _settings(recipe: Recipe, processes: Processes) -> TrainingArguments:
    """What transformers' Trainer is told; losses, rows, learning rates and checkpoints are ours."""
    device = device_named(recipe.device)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(recipe.out / "tensorboard")
    return TrainingArguments(
        output_dir=str(recipe.out),
        max_steps=recipe.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=processes.micro_batches(recipe),
        learning_rate=max(recipe.learning_rate, *(stage.learning_rate or 0.0 for stage in recipe.stages), 0.0),
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.dtype == "bfloat16",
        gradient_checkpointing=recipe.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=device.type == "cpu" and recipe.parallel == "single",  # DeepSpeed finds the CPU by itself
        logging_steps=1,
        save_strategy="steps",
        save_steps=recipe.save_every,
        report_to=["tensorboard"],
        disable_tqdm=True,
        log_level="error",
        ignore_data_skip=True,  # rows begin at the right one
        seed=recipe.seed,
        **parallel_settings(recipe, processes),
    )


def _first_loss(recipe: Recipe, fit: Fit, rows: Rows, schedule: Schedule, processes: Processes) -> FirstLoss:
    assert recipe.first_loss is not None
    tokens = fit.own.max_length // processes.ways * processes.ways
    count = processes.ways if recipe.parallel == "sp" else 1
    return FirstLoss(Beginnings(rows, schedule, tokens=tokens, count=count), limit=recipe.first_loss)


def _finish(recipe: Recipe, fit: Fit, streams: Streams, checkpoints: Checkpoints, *, adapters: bool) -> None:
    last = checkpoints.newest()
    assert last is not None, "the last step is always a checkpoint"
    metrics = read_metrics(recipe.out / "metrics.jsonl")
    picture = loss_png(metrics)
    write_atomically(recipe.out / "loss.png", picture)
    export(
        last,
        recipe.model,
        fit.stages[-1].factors,
        adapters=adapters,
        folder=recipe.out / "model",
        card=model_card(recipe, fit, streams=streams, metrics=metrics),
        picture=picture,
    )


def _held(folder: Path, processes: Processes) -> AbstractContextManager[None]:
    return exclusive(folder) if processes.first else nullcontext()


def _same_recipe(recipe: Recipe, fit: Fit, processes: Processes) -> None:
    """Keep what decides the result beside it, or raise ``TrainingError`` where something else is kept."""
    stated = {name: value for name, value in asdict(recipe).items() if name not in _UNCHANGED}
    stated |= {"processes": processes.world, "factors": [asdict(one.tier) for one in fit.stages]}
    now = json.loads(json.dumps(stated, default=str))
    path = recipe.out / "recipe.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
        if changed:
            raise TrainingError(
                f"Expected the recipe that {recipe.out} was begun with, found another {' and '.join(changed)}: give "
                "another out, or remove the folder."
            )
    elif processes.first:
        write_atomically(path, json.dumps(now, indent=2) + "\n")


def _step(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else step_of(checkpoint)
