"""What other engines read differently in a longrope config, in sentences for whoever publishes or serves it."""

from longrope_vllm.geometry import Config, rope_parameters, rope_type, text_config
from longrope_vllm.rope_block import TIERS_KEY, read_rope_block


def lint(config: Config) -> list[str]:
    """What other engines would read differently in this longrope config; empty when they agree."""
    text = text_config(config)
    rope = rope_parameters(text)
    if rope_type(rope) != "longrope":
        return []
    factors = read_rope_block(config)
    assert factors is not None
    short, long = factors.tiers[0], factors.tiers[-1]
    findings = []
    for field in ("short_mscale", "long_mscale"):
        if rope.get(field) is None:
            findings.append(f"{field} is not stated: vLLM derives it from the lengths")
    if rope.get("attention_factor") is None and rope.get("factor") is None:
        findings.append("factor and attention_factor are not stated: transformers derives them from the lengths")
    stated = [rope[field] for field in ("attention_factor", "long_mscale") if rope.get(field) is not None]
    if len(set(stated)) > 1:
        findings.append(
            f"attention_factor {stated[0]:g} and long_mscale {stated[1]:g} differ: transformers takes the first, vLLM "
            "the second"
        )
    if text.get("original_max_position_embeddings") is None:
        findings.append("original_max_position_embeddings is missing at the top level, where vLLM looks for it")
    if short.attention_factor != long.attention_factor:
        findings.append(
            f"the magnitudes differ (short {short.attention_factor:g}, long {long.attention_factor:g}): transformers "
            "applies attention_factor to both"
        )
    if len(factors.tiers) > 2:
        findings.append(
            f"the {len(factors.tiers)} tiers under {TIERS_KEY} are ours: other engines read the shortest and longest"
        )
    if any(tier.start_tokens for tier in factors.tiers):
        findings.append(f"the start tokens under {TIERS_KEY} are ours: other engines rotate every position alike")
    if any(later < earlier for earlier, later in zip(long.factors, long.factors[1:], strict=False)):
        findings.append("the long factors are not non-decreasing, unlike searched ones")
    return findings
