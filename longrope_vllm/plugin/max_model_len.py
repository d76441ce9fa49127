"""Patch of ``vllm.config.model._get_and_verify_max_len``: a longrope checkpoint serves its full length by default.

vLLM takes the trained window as default for longrope, because there a longer server degrades short requests. Here it
does not, and with that default the plugin would never do anything. A drafter is asked for positions as far as its
target is served, so its table has to reach as far; vLLM shortens it to its target.
Remove when vLLM's default for longrope is the checkpoint's ``max_position_embeddings``.
"""

import logging
from collections.abc import Callable
from typing import Any

from longrope_vllm.plugin.patching import wrap_once

logger = logging.getLogger("vllm.longrope")


def install() -> None:
    """Wrap the function that decides ``max_model_len``."""
    from vllm.config import model

    wrap_once(model, "_get_and_verify_max_len", _with_full_length)


def _with_full_length(original: Callable[..., int]) -> Callable[..., int]:
    def get_and_verify_max_len(*args: Any, **kwargs: Any) -> int:
        config = kwargs.get("hf_config")
        rope = getattr(config, "rope_parameters", None)
        asked = kwargs.get("max_model_len")  # None: not given; -1: fit to the memory, starting from the default
        is_longrope = isinstance(rope, dict) and rope.get("rope_type") == "longrope"
        if is_longrope and asked in (None, -1):
            kwargs["max_model_len"] = int(config.max_position_embeddings)  # type: ignore[union-attr]
            if kwargs.get("spec_target_max_model_len") is None:
                logger.info(
                    "longrope: serving the checkpoint's full length of %s tokens; --max-model-len lowers it",
                    f"{kwargs['max_model_len']:,}",
                )
        return original(*args, **kwargs)

    return get_and_verify_max_len
