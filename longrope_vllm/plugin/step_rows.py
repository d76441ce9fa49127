"""Before a model runs: the rows of its tokens, each from its own tier, in fixed buffers, as CUDA graphs need them.

A forward pre-hook of every model with longrope, drafters included. The model runners' own positions stay true (slot
mapping, attention metadata and drafters read them); what the model gets instead are places in the rows of this step.
The hook is a part of the model, so a captured graph holds it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.tiers import ServedTiers


class StepRows(nn.Module):
    """``offsets`` [tokens a step] int64: where the table of each token's tier begins; a model runner fills it.

    All 0 means the longest tier for everybody: for a drafter, and in a run without requests. Padding past the scheduled
    tokens reads some row of the table, which nobody uses. A module, so that its buffers survive a sleeping engine.
    """

    offsets: Tensor
    places: Tensor

    def __init__(self, served: ServedTiers, rotaries: tuple[Any, ...]) -> None:
        """``rotaries``: the tiered embeddings of one model, usually one that all layers share."""
        super().__init__()
        self.served = served
        self._rotaries = rotaries  # in a tuple: they are modules of the model already
        cache = rotaries[0].cos_sin_cache
        self.register_buffer("offsets", torch.zeros(cache.shape[0], dtype=torch.int64, device=cache.device), False)
        self.register_buffer("places", torch.arange(cache.shape[0], device=cache.device), False)

    @classmethod
    def attach(cls, model: nn.Module) -> bool:
        """Give ``model`` its hook, once; False for one without longrope. Raises as ``tiered_rotaries`` does."""
        rotaries = tiered_rotaries(model)
        if rotaries and not hasattr(model, "longrope_steps"):  # a loader may go through another one
            model.longrope_steps = cls(rotaries[0].served, rotaries)
            model.register_forward_pre_hook(model.longrope_steps.hook, with_kwargs=True)
        return bool(rotaries)

    def hook(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Read the rows of ``positions`` [T] and call the model with places 0 … T - 1 instead."""
        positions = kwargs["positions"]
        count = positions.shape[0]
        for rotary in self._rotaries:
            rotary.take_rows(positions, self.offsets[:count])
        return args, {**kwargs, "positions": self.places[:count]}


def steps_of(model: nn.Module, max_model_len: int) -> StepRows:
    """The hook of ``model``. Raises ``UnsupportedError`` when its table ends before ``max_model_len`` tokens.

    Asked of the table itself, not of the configuration, which may have been fitted to the memory since it was built.
    """
    steps = model.longrope_steps
    assert isinstance(steps, StepRows), "attached when the model was loaded"
    longest = steps.served.max_length(steps.served.last)
    if longest < max_model_len:
        raise UnsupportedError(
            f"Expected a rope table for {max_model_len} tokens, found one for {longest}: it was built for another "
            "engine in this process, so serve this model in a process of its own."
        )
    return steps


def tiered_rotaries(model: nn.Module) -> tuple[Any, ...]:
    """The rotary embeddings with tiers in ``model``; none for a model without longrope.

    Raises ``UnsupportedError`` when others stand beside them, which would take places for positions, and for a drafter
    that reads the table by code of its own.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(_table_of(module), Tensor)}
    tiered = [module for module in found.values() if isinstance(getattr(module, "served", None), ServedTiers)]
    if not tiered:
        return ()
    for name, module in found.items():
        if module not in tiered:
            raise UnsupportedError(
                f"Expected one longrope rotary embedding in all layers, found {type(module).__name__} at {name}: "
                "models with several ropes are not supported."
            )
    if hasattr(model, "precompute_and_store_context_kv"):  # DFlash: reads it by true positions
        raise UnsupportedError(
            f"Expected a drafter that rotates through its layers, found {type(model).__name__} with a longrope block, "
            "which reads the table itself: use another speculation method."
        )
    return tuple(tiered)


def _table_of(module: nn.Module) -> Any:
    return getattr(module, "cos_sin_cache", None)
