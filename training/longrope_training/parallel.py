"""How processes share the work: the settings of transformers' Trainer for each preset.

single   each process has rows of its own (one CPU, one GPU, or data parallel)
sp       the processes of a group share each row by sequence, and attention by heads (DeepSpeed Ulysses with ZeRO-3;
         arXiv 2309.14509, 2506.13996)
cp       they share it by ring attention (FSDP2 with context parallelism), for models whose heads cannot be shared out
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Self

import torch

from longrope_training.model.document_attention import register_document_attention
from longrope_training.recipe import Recipe
from longrope_vllm.errors import TrainingError
from longrope_vllm.extras import require


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among all, as its launcher says."""

    rank: int
    world: int
    ways: int
    """So many share one row."""

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """From the environment that ``accelerate launch`` and ``torchrun`` set, for a recipe that was found to fit.

        Raises ``TrainingError`` for a batch that cannot be shared out, and for one process where several are needed.
        """
        world = int(os.environ.get("WORLD_SIZE", "1"))
        ways = 1 if recipe.alone else recipe.ways or world
        if not recipe.alone and ways == 1:
            raise TrainingError(
                f"Expected several processes for parallel {recipe.parallel}, found one: start with accelerate launch "
                "--num_processes N, or take parallel single."
            )
        found = cls(rank=int(os.environ.get("RANK", "0")), world=world, ways=ways)
        if recipe.batch % found.groups:
            raise TrainingError(
                f"Expected a batch that {found.groups} groups of processes share evenly, found {recipe.batch}: take a "
                f"multiple of {found.groups}."
            )
        return found

    @property
    def groups(self) -> int:
        """Groups of processes, each with rows of its own."""
        return self.world // self.ways

    @property
    def first(self) -> bool:
        """True for the one process that writes."""
        return self.rank == 0

    def told(self, recipe: Recipe, *, gpus: int) -> str:
        """How rows are shared out, for whoever starts the run on a machine with so many ``gpus``."""
        line = (
            f"parallel {recipe.parallel}: {self.groups} rows at a time, {self.ways} of {self.world} processes for each"
        )
        unused = f"; {gpus} GPUs are there, accelerate launch --num_processes {gpus} uses all"
        return line + unused * (self.world == 1 and gpus > 1)

    def micro_batches(self, recipe: Recipe) -> int:
        """Rows of each group in one step."""
        return recipe.batch // self.groups

    def rows(self, recipe: Recipe, *, step: int) -> list[int]:
        """Numbers of the rows that this process reads, from ``step`` on.

        Under Ulysses each process of a group reads one of ``ways`` rows, and the group then goes through them one after
        the other, all together.
        """
        each = self.micro_batches(recipe)
        group, place = divmod(self.rank, self.ways)
        begin, end, stride = step * each, recipe.steps * each, 1
        if recipe.parallel == "sp":
            begin, stride = begin + place, self.ways
        rows = [
            micro // each * recipe.batch + micro % each * self.groups + group for micro in range(begin, end, stride)
        ]
        missing = -(-(end - step * each) // stride) - len(rows)  # all of a group have to read equally often
        return rows + [(recipe.steps - 1) * recipe.batch + group] * missing


def parallel_settings(recipe: Recipe, processes: Processes) -> dict[str, Any]:
    """Arguments of ``TrainingArguments``."""
    return {} if recipe.alone else _SETTINGS[recipe.parallel](recipe, processes)


def _sp(recipe: Recipe, processes: Processes) -> dict[str, Any]:
    accelerate = require("accelerate.utils", "train")
    require("deepspeed", "sp")
    handler = accelerate.DeepSpeedSequenceParallelConfig(sp_seq_length_is_variable=True, sp_attn_implementation="sdpa")
    handler.sp_attn_implementation = attention_of(recipe)  # its own check knows names of transformers only
    return {
        "parallelism_config": accelerate.ParallelismConfig(
            sp_size=processes.ways,
            sp_backend="deepspeed",
            sp_handler=handler,
            dp_replicate_size=processes.groups,
        ),
        "deepspeed": {
            "bf16": {"enabled": recipe.dtype == "bfloat16"},
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": processes.micro_batches(recipe),
            "gradient_clipping": recipe.max_grad_norm,
            "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
            "zero_force_ds_cpu_optimizer": False,
            "sequence_parallel_size": processes.ways,  # for weights that are shared out while they are loaded
            "seq_parallel_communication_data_type": "fp32",  # gradients of halves of a row are added up
            "data_types": {"grad_accum_dtype": "fp32"},  # and those of all rows of a step
        },
    }


def _cp(recipe: Recipe, processes: Processes) -> dict[str, Any]:
    accelerate = require("accelerate.utils", "train")
    return {
        "parallelism_config": accelerate.ParallelismConfig(
            cp_size=processes.ways, dp_shard_size=processes.groups if processes.groups > 1 else None
        ),
        # Gradients are shared out after each row: whole ones of all weights would have to fit otherwise.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
        "fsdp": True,
        "fsdp_config": {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT", "activation_checkpointing": False},
    }


_SETTINGS = {"sp": _sp, "cp": _cp}


def attention_of(recipe: Recipe) -> str:
    """Name of the attention of transformers that the model is loaded with.

    flash-attn knows documents by their positions; ring attention takes SDPA itself and one document a row; everything
    else runs SDPA over each document.
    """
    if recipe.parallel == "cp":
        return "sdpa"
    return "flash_attention_2" if flash_is_used(recipe) else register_document_attention()


def flash_is_used(recipe: Recipe) -> bool:
    """True where rows are attended to by flash-attn."""
    if recipe.parallel == "cp" or recipe.attention != "auto":
        return recipe.attention == "flash"
    on_cuda = torch.cuda.is_available() and recipe.device != "cpu"
    return on_cuda and recipe.dtype != "float32" and find_spec("flash_attn") is not None
