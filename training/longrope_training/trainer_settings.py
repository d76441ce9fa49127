"""What transformers' Trainer is told; rows, losses, learning rates and checkpoints are ours."""

import os

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainingArguments

from longrope_training.learning_rate import learning_rates
from longrope_training.parallel import Processes, parallel_settings
from longrope_training.recipe import Recipe
from longrope_vllm.evaluation.loading import device_named


def trainer_settings(recipe: Recipe, processes: Processes) -> TrainingArguments:
    """Settings of a run; making them begins the communication between processes."""
    on_cpu = device_named(recipe.device).type == "cpu"
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(recipe.out / "tensorboard")
    settings = TrainingArguments(
        output_dir=str(recipe.out),
        max_steps=recipe.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=processes.micro_batches(recipe),
        learning_rate=max(learning_rates(recipe)),
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.dtype == "bfloat16",
        gradient_checkpointing=recipe.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_cpu=on_cpu and recipe.alone,  # DeepSpeed finds the CPU by itself
        logging_steps=1,
        save_strategy="steps",  # and after the last step
        save_steps=recipe.save_every,
        report_to=["tensorboard"],
        disable_tqdm=True,
        log_level="error",
        ignore_data_skip=True,  # rows begin at the right one
        seed=recipe.seed,
        **parallel_settings(recipe, processes),
    )
    if processes.world == 1 and settings.n_gpu > 1:
        settings._n_gpu = 1  # one process trains on one GPU; torch.nn.DataParallel would bypass everything here
    if recipe.parallel == "cp" and recipe.dtype == "bfloat16":
        # accelerate's own policy would round the sums of losses, which leave the model, and gradients on their way.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        settings.fsdp_plugin_args["mixed_precision_policy"] = policy
    return settings
