"""Patch of ``BaseModelLoader.load_model``: a model that never took the tiers is refused.

A model may turn its keys by code of its own, or by a class that a special attention asks for. The scheduler would then
move requests between tiers that no layer knows: wrong in silence. Remove when vLLM tells which rope a model has built.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.tiers import ServedTiers, serves_tiers


def install() -> None:
    """Wrap the method of vLLM's base loader, and of the loaders that have one of their own."""
    from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER, BaseModelLoader

    for loader in {BaseModelLoader, *_LOAD_FORMAT_TO_MODEL_LOADER.values()}:
        if "load_model" in vars(loader):
            wrap_once(loader, "load_model", _checking)


def check_took_tiers(model: nn.Module) -> None:
    """Raise ``UnsupportedError`` when no layer of ``model`` has a table of tiers."""
    if not any(isinstance(getattr(module, "served", None), ServedTiers) for module in model.modules()):
        raise UnsupportedError(
            f"Expected a longrope rotary embedding in {type(model).__name__}, found none: this model has a rotation of "
            "its own and cannot be served in tiers."
        )


def _checking(original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def load_model(self: Any, vllm_config: Any, model_config: Any, *args: Any, **kwargs: Any) -> nn.Module:
        model = original(self, vllm_config, model_config, *args, **kwargs)
        if serves_tiers(vllm_config) and model_config.runner_type != "draft":
            check_took_tiers(model)
        return model

    return load_model
