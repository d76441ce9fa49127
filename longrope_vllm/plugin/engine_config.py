"""Patch of ``VllmConfig.__post_init__``: check once, before weights are loaded, what this server will do.

For a longrope checkpoint: refuse by name what cannot be served exactly, mark the scheduler config so that the engine
takes the tiered scheduler, install what requests and answers pass through in this process, and put the plugin into the
hash of the compile cache, whose key knows nothing of it.
Remove the fingerprint when vLLM hashes its loaded general plugins.
"""

import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from longrope_vllm.errors import UnsupportedError
from longrope_vllm.plugin.compat import check_own_rope
from longrope_vllm.plugin.patching import wrap_once
from longrope_vllm.plugin.settings import server_settings
from longrope_vllm.plugin.step_rows import tokens_of_a_step
from longrope_vllm.plugin.tiers import MARK, ServedTiers

logger = logging.getLogger("vllm.longrope")


def install() -> None:
    """Wrap ``VllmConfig.__post_init__``."""
    from vllm.config import VllmConfig

    wrap_once(VllmConfig, "__post_init__", _with_longrope)


def _with_longrope(original: Callable[..., None]) -> Callable[..., None]:
    def post_init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.model_config is None or self.model_config.runner_type == "draft":
            return  # a drafter follows its target and always reads the longest tier
        served = ServedTiers.from_vllm_config(self)
        if served is None:
            return
        _fingerprint(self, served)
        settings = server_settings(self)
        if served.last == 0:
            return
        check_exact(self)
        check_own_rope(served.source.rope_type, served.source.rope)
        if not getattr(self.scheduler_config, MARK, False):
            setattr(self.scheduler_config, MARK, True)
            logger.info("longrope: tiers in force: %s; policy: %s", served.describe(), settings.policy)
        _install_front_end()

    return post_init


def _install_front_end() -> None:
    """Patch what requests and answers pass through: done here, so that processes with other models never see it."""
    from longrope_vllm.plugin import input_processor, output_processor

    input_processor.install()
    output_processor.install()


def check_exact(vllm_config: Any) -> None:
    """Raise ``UnsupportedError`` for an option under which requests of different tiers would not stay exact."""
    from vllm import envs

    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    refused = {
        "a KV connector (--kv-transfer-config, --kv-offloading-size), which keeps a request's first keys": (
            vllm_config.kv_transfer_config is not None
        ),
        "micro-batches (--enable-dbo, --ubatch-size), which split a batch after its rows are known": (
            bool(parallel.use_ubatching)
        ),
        "prefill context parallelism, which reorders positions": parallel.prefill_context_parallel_size > 1,
        "multimodal rope positions (M-RoPE), of which a token has three": bool(getattr(model, "uses_mrope", False)),
        "dual chunk attention (dual_chunk_attention_config), which has a rotation of its own": bool(
            getattr(model.hf_text_config, "dual_chunk_attention_config", None)
        ),
        "the Rust front end (VLLM_USE_RUST_FRONTEND), which loads no plugin": bool(envs.VLLM_USE_RUST_FRONTEND),
        "an encoder-decoder model": bool(getattr(model, "is_encoder_decoder", False)),
        "position-dependent query scaling (llama_4_scaling, Llama 4), which would take places for positions": bool(
            getattr(model.hf_text_config, "llama_4_scaling", None)
        )
        or str(getattr(model.hf_text_config, "model_type", "")).startswith("llama4"),
    }
    for name, present in refused.items():
        if present:
            raise UnsupportedError(
                f"Per-request rope tiers are not exact with {name}; found in this server's configuration: switch it "
                "off, or set --max-model-len to the first tier to serve that one alone."
            )


def _fingerprint(vllm_config: Any, served: ServedTiers) -> None:
    if not isinstance(vllm_config.additional_config, dict):
        raise UnsupportedError(
            f"Expected additional_config to be a dictionary, found {type(vllm_config.additional_config).__name__}: the "
            "compile cache needs the rope tiers in it."
        )
    vllm_config.additional_config["longrope_fingerprint"] = {
        "version": version("longrope-vllm"),
        "tiers": [[tier.max_length, served.identity(index)] for index, tier in enumerate(served.tiers)],
        "tokens_of_a_step": tokens_of_a_step(vllm_config),  # the length of a buffer in the compiled graph
    }
