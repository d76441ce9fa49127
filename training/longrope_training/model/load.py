"""The checkpoint of a recipe, made ready to be trained: its ropes, its loss, its adapters and where memory is saved."""

from dataclasses import dataclass
from typing import Any

import torch

from longrope_training.batches import OWN, rope_of_stage
from longrope_training.fit import Fit
from longrope_training.model.adapters import with_adapters
from longrope_training.model.loss_head import LossHead, put_loss_head
from longrope_training.model.tier_rope import TierRope, tier_rope
from longrope_training.parallel import attention_of
from longrope_training.recipe import Recipe
from longrope_vllm.backward.tiled_mlp import tile_mlps
from longrope_vllm.errors import TrainingError
from longrope_vllm.evaluation.loading import check_head
from longrope_vllm.extras import require
from longrope_vllm.freed_memory import give_back_freed_memory
from longrope_vllm.hf import put_rotary


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model and the parts of it that training speaks to."""

    module: Any
    rope: TierRope
    head: LossHead


def load(recipe: Recipe, fit: Fit, *, adapters: bool) -> TrainedModel:
    """Load the checkpoint, with low-rank ``adapters`` or to be trained in full.

    Raises ``TrainingError`` or ``EvaluationError`` for a model that cannot be trained so.
    """
    transformers = require("transformers", "train")
    if fit.device.type == "cpu":
        give_back_freed_memory()
    try:
        config = transformers.AutoConfig.from_pretrained(recipe.model)
        # Adam's steps are smaller than bfloat16 can add to a weight; frozen weights may stay in it.
        dtype = torch.bfloat16 if adapters and recipe.dtype == "bfloat16" else torch.float32
        module = transformers.AutoModelForCausalLM.from_pretrained(
            recipe.model, config=config, dtype=dtype, attn_implementation=attention_of(recipe)
        )
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"Expected a causal language model in {recipe.model}, found: {str(error).splitlines()[0]}"
        ) from None
    module.config.use_cache = False
    if recipe.parallel != "sp":  # there the weights are shared out already, and cannot be run yet
        check_head(module)
    ropes = {rope_of_stage(number): (one.factors, one.tier) for number, one in enumerate(fit.stages)}
    rope = tier_rope({OWN: (fit.stages[0].factors, fit.own), **ropes})
    put_rotary(module, rope)
    head = put_loss_head(module)
    if recipe.mlp_tokens is not None and not tile_mlps(module, recipe.mlp_tokens):
        raise TrainingError(
            f"Expected an MLP without experts in every layer, found other layers in {type(module).__name__}: leave out "
            "mlp_tokens."
        )
    if adapters:
        torch.manual_seed(recipe.seed)  # a run that begins again begins with the same ones
        module = with_adapters(module, recipe.lora_rank)
    return TrainedModel(module=module, rope=rope, head=head)
