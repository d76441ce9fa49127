"""Patch of ``BaseModelLoader.load_model``: a loaded model gets its step rows; one that never took the tiers is refused.

A model may turn its keys by code of its own, or by a class that a special attention asks for. The scheduler would then
move requests between tiers that no layer knows: wrong in silence. Remove when vLLM tells which rope a model has built,
and passes inputs of ours to it.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.tiers import ServedTiers, serves_tiers


def install() -> None:
    """Wrap the method of vLLM's base loader, and of the loaders that have one of their own, also of later ones."""
    from vllm.model_executor import model_loader

    for loader in {model_loader.BaseModelLoader, *model_loader._LOAD_FORMAT_TO_MODEL_LOADER.values()}:
        _wrap(loader)
    wrap_once(model_loader, "register_model_loader", _wrapping_the_registered)


def _wrap(loader: Any) -> None:
    if "load_model" in vars(loader):
        wrap_once(loader, "load_model", _with_rows)


def _wrapping_the_registered(original: Callable[..., Any]) -> Callable[..., Any]:
    def register_model_loader(load_format: str) -> Callable[[Any], Any]:
        register = original(load_format)

        def wrapper(loader: Any) -> Any:
            _wrap(loader)
            return register(loader)

        return wrapper

    return register_model_loader


def _with_rows(original: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def load_model(self: Any, vllm_config: Any, model_config: Any, *args: Any, **kwargs: Any) -> nn.Module:
        if ServedTiers.from_vllm_config(vllm_config) is None:
            return original(self, vllm_config, model_config, *args, **kwargs)
        from longrope_vllm.plugin.rotary import fresh_tables
        from longrope_vllm.plugin.step_rows import StepRows

        drafter = model_config.runner_type == "draft"
        with fresh_tables(drafter=drafter):
            model = original(self, vllm_config, model_config, *args, **kwargs)
        if serves_tiers(vllm_config) and not drafter:
            StepRows.attach(model)
            _install_model_runner(vllm_config)
        return model

    return load_model


def _install_model_runner(vllm_config: Any) -> None:
    """Patch the model runner of this process: done here so that processes with other models never see it."""
    if vllm_config.use_v2_model_runner:
        from longrope_vllm.plugin import model_runner_v2

        model_runner_v2.install()
    else:
        from longrope_vllm.plugin import model_runner_v1

        model_runner_v1.install()
