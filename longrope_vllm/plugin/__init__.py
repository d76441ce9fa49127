"""Everything that touches vLLM. vLLM calls ``register`` in each of its processes, by entry point.

Read in the order of ``docs/serving.md``. At the start: ``max_model_len`` and ``engine_config`` (before anything is
loaded), ``tiers`` (what is in force), ``rotary`` and ``model_loader`` (the table, and that the model took it). For each
request: ``http_fields``, ``policy`` and ``input_processor`` (where it starts), ``scheduler`` (its tier, its key, its
crossings), ``lane_scheduling`` with ``lanes`` and ``adapter_seats`` (whose turn it is), ``model_runner_v1`` or
``model_runner_v2`` with ``step_rows`` and ``read_rows`` (the rows of its tokens), ``output_processor``, ``status`` and
``metrics`` (what is told about it), ``followed`` and ``progress`` (which requests a response has and how far they are,
for every model). For the engine itself: ``pulse`` (is it alive) and ``orphan`` (it ends with its API server).
"""

from functools import partial
from importlib import import_module
from types import ModuleType

from wrapt import register_post_import_hook

ROTARY = "vllm.model_executor.layers.rotary_embedding"

PATCHES = {
    "vllm.config": ("max_model_len", "engine_config", "scheduler"),
    ROTARY: ("rotary",),
    "vllm.model_executor.model_loader": ("model_loader",),
    "vllm.v1.engine.core": ("progress", "pulse", "orphan"),
}
"""Module of vLLM to the modules here that patch it, each by its ``install``, as soon as vLLM imports it."""


def register() -> None:
    """Install the plugin in this process; calling it again changes nothing.

    Nothing of vLLM is imported for it: a process that never loads a model never pays for what patches models. Models
    without a longrope block never reach any of it. A vLLM outside the supported range keeps working for them and
    refuses a longrope checkpoint.
    """
    from longrope_vllm.plugin import compat

    if not compat.is_supported(compat.vllm_version()):
        register_post_import_hook(compat.refuse_longrope, ROTARY)
        return
    for target, patches in PATCHES.items():
        for patch in patches:
            register_post_import_hook(partial(_install, patch), target)


def _install(patch: str, target: ModuleType) -> None:
    import_module(f"{__name__}.{patch}").install()
