"""Low-rank adapters on the linear layers, with norms and token embeddings trained whole.

Adapters alone do not learn a longer context; with norms and embeddings, which are a few of a hundred weights, they come
near to training everything (LongLoRA, arXiv 2309.12307, section 3.3 and table 2).
"""

from typing import Any

import torch
from torch import nn

from longrope_vllm.errors import TrainingError
from longrope_vllm.extras import require


def with_adapters(model: Any, rank: int) -> Any:
    """``model`` in a ``PeftModel`` with fresh adapters of ``rank``, which change nothing until they are trained.

    ``model`` is a transformers causal language model, with its loss head if it is to have one. What is trained is kept
    in float32: under bfloat16 the steps of the optimizer would be rounded away. Where ZeRO shares ``model`` out, it
    keeps float32 copies of its own, and all of this has the dtype of ``model``, because nothing casts it on its way.
    Raises ``TrainingError`` for a model without linear layers in its decoder layers.
    """
    peft: Any = require("peft", "train")
    head, tied = model.lm_head, model.lm_head.weight is model.get_input_embeddings().weight
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=_linear_names(model),
        modules_to_save=_whole_names(model),
        ensure_weight_tying=tied,
        task_type="CAUSAL_LM",
    )
    shared_out = any(hasattr(weight, "ds_numel") for weight in model.parameters())
    dtype = model.dtype if shared_out else torch.float32
    wrapped = peft.get_peft_model(model, config)
    if tied:
        # peft ties by putting a plain linear layer in the place of the head: ours comes back, and shares the copy of
        # the embeddings that is trained.
        model.lm_head = head
        head.weight = model.get_input_embeddings().weight
    for weight in wrapped.parameters():
        if weight.requires_grad and not hasattr(weight, "ds_numel"):
            weight.data = weight.data.to(dtype)
    return wrapped


def merged(model: Any) -> Any:
    """The transformers model within ``model`` with what was learnt, in the dtype it came in and under its own names.

    ``model``, as ``with_adapters`` gave it, is used up.
    """
    dtype = model.get_base_model().dtype
    return model.merge_and_unload().to(dtype)


def trainable_share(model: nn.Module) -> tuple[int, int]:
    """Weights that are trained, and all of them; also where ZeRO has shared them out over processes."""
    counts = [(getattr(weight, "ds_numel", weight.numel()), weight.requires_grad) for weight in model.parameters()]
    return sum(count for count, trained in counts if trained), sum(count for count, _ in counts)


def _linear_names(model: Any) -> list[str]:
    """Last names of the linear layers within decoder layers."""
    layers: Any = require("transformers.modeling_layers", "train").GradientCheckpointingLayer
    found = {
        name.rpartition(".")[2]
        for layer in model.modules()
        if isinstance(layer, layers)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }
    if not found:
        raise TrainingError(
            f"Expected linear layers in the decoder layers, found none in {type(model).__name__}: train this model "
            "with --tuning full."
        )
    return sorted(found)


def _whole_names(model: Any) -> list[str]:
    """Names of the token embeddings and of every norm with weights."""
    embeddings = model.get_input_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if module is embeddings or ("norm" in type(module).__name__.lower() and list(module.parameters(recurse=False)))
    ]
