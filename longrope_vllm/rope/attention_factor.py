"""The attention factor ("mscale"): multiplies both cos and sin, so that logits scale by its square."""

import math


def longrope_attention_factor(scale: float, trained_window: int) -> float:
    """``sqrt(1 + ln s / ln L)`` for ``s > 1``, else 1; ``s`` is the target length over the trained window ``L``.

    Empirical and not in the paper; every released longrope checkpoint that states no factor of its own uses it.
    """
    if scale <= 1.0:
        return 1.0
    return math.sqrt(1.0 + math.log(scale) / math.log(trained_window))


def yarn_attention_factor(scale: float, *, weight: float = 1.0) -> float:
    """``0.1 w ln s + 1`` for ``s > 1``, else 1 (YaRN, arXiv 2309.00071, section 3.4, where the weight ``w`` is 1)."""
    return 1.0 if scale <= 1.0 else 0.1 * weight * math.log(scale) + 1.0
