"""Before a model runs: the rows of its tokens, each from its own tier, in fixed buffers, as CUDA graphs need them.

A forward pre-hook of the model that serves tiers. The model runner's own positions stay true (slot mapping, attention
metadata and drafters read them); what the model gets instead are places in the rows of this step. A full CUDA graph
captures the hook with the model, a piecewise one runs after it.
"""

from typing import Any

from torch import Tensor, nn

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.tiers import ServedTiers


def tokens_of_a_step(vllm_config: Any) -> int:
    """Most tokens that a model is given at once: what is scheduled, and drafts on top of it."""
    scheduler, speculative = vllm_config.scheduler_config, vllm_config.speculative_config
    drafts = 0 if speculative is None else speculative.num_speculative_tokens or 0
    tokens: int = scheduler.max_num_batched_tokens + scheduler.max_num_seqs * drafts
    return tokens


class StepRows:
    """What one model is rotated by in a step. ``rotaries``: its embeddings, usually one that all layers share."""

    def __init__(self, rotaries: tuple[Any, ...]) -> None:
        self.served: ServedTiers = rotaries[0].served
        self._rotaries = rotaries

    @property
    def offsets(self) -> Tensor:
        """[tokens a step] int64: where the table of each token's tier begins. The model runner fills it.

        All 0 means the longest tier for everybody, as in a run without requests. Padding past the scheduled tokens
        reads some row of the table, which nobody uses.
        """
        offsets: Tensor = self._rotaries[0].offsets
        return offsets

    @classmethod
    def attach(cls, model: nn.Module) -> None:
        """Give ``model`` its hook, once. Raises ``UnsupportedError`` when it cannot be served in tiers."""
        if hasattr(model, "longrope_steps"):
            return  # a loader may go through another one
        rotaries = tiered_rotaries(model)
        if type(model).__call__ is not nn.Module.__call__:  # @support_torch_compile on the whole: no hook runs
            raise UnsupportedError(
                f"Expected a model that is called through its hooks, found {type(model).__name__}, which vLLM compiles "
                "as a whole: not supported in tiers."
            )
        steps = cls(rotaries)
        model.longrope_steps = steps  # type: ignore[assignment]
        model.register_forward_pre_hook(steps.hook, with_kwargs=True)

    def hook(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Read the rows of ``positions`` [T] and call the model with places 0 … T - 1 instead."""
        positions, places = kwargs["positions"], self._rotaries[0].places
        count = positions.shape[0]
        if count > places.shape[0]:
            raise UnsupportedError(f"Expected at most {places.shape[0]} tokens in a step, found {count}.")
        for rotary in self._rotaries:
            rotary.take_rows(positions, self.offsets[:count])
        return args, {**kwargs, "positions": places[:count]}


def steps_of(model: nn.Module, max_model_len: int) -> StepRows:
    """The hook of ``model``.

    Raises ``UnsupportedError`` for a model without one, or with a table that ends before ``max_model_len`` tokens. The
    table itself is asked, not the configuration, which may have been fitted to the memory since it was built.
    """
    steps = getattr(model, "longrope_steps", None)
    if not isinstance(steps, StepRows):
        raise UnsupportedError(
            f"Expected {type(model).__name__} to be loaded by a model loader of vLLM, or one registered with it, found "
            "another: it cannot be served in tiers."
        )
    longest = steps.served.max_length(steps.served.last)
    if longest < max_model_len:
        raise UnsupportedError(
            f"Expected a rope table for {max_model_len} tokens, found one for {longest}: it was built for another "
            "engine in this process, so serve this model in a process of its own."
        )
    return steps


def tiered_rotaries(model: nn.Module) -> tuple[Any, ...]:
    """The rotary embeddings of ``model``. Raises ``UnsupportedError`` unless all of them serve tiers, and there is one.

    Any other would take places for positions.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "cos_sin_cache", None), Tensor)
    }
    others = {name: module for name, module in found.items() if not getattr(module, "by_step", False)}
    if len(others) == len(found):
        raise UnsupportedError(
            f"Expected a longrope rotary embedding in {type(model).__name__}, found none: this model has a rotation of "
            "its own and cannot be served in tiers."
        )
    for name, module in others.items():
        raise UnsupportedError(
            f"Expected one longrope rotary embedding in all layers, found {type(module).__name__} at {name}: models "
            "with several ropes are not supported."
        )
    return tuple(found.values())
