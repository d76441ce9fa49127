"""The learning rate by step: each stage warms up and decays by itself, as separate runs of fine-tuning would."""

import math
from collections.abc import Callable, Mapping

from longrope_training.recipe import LearningRateSchedule, Recipe

_DECAYS: Mapping[LearningRateSchedule, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
"""Share of the stage that is done to the share of its learning rate."""


def learning_rates(recipe: Recipe) -> list[float]:
    """The learning rate of each step of the run."""
    return [rate for stage in range(len(recipe.stages)) for rate in _of_stage(recipe, stage)]


def _of_stage(recipe: Recipe, number: int) -> list[float]:
    stage = recipe.stages[number]
    highest = recipe.learning_rate if stage.learning_rate is None else stage.learning_rate
    warmup = min(recipe.warmup, stage.steps - 1)
    decay = _DECAYS[recipe.learning_rate_schedule]
    rising = [highest * (step + 1) / (warmup + 1) for step in range(warmup)]
    falling = [highest * decay(step / (stage.steps - warmup)) for step in range(stage.steps - warmup)]
    return rising + falling
