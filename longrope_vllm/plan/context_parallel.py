"""Why vLLM's two ways to share one sequence out by its tokens do or do not apply to a model.

The rules are those of vLLM 0.32: ``ModelConfig.verify_with_parallel_config`` for decoding, and the attention backends
for prefill, of which only those of latent attention support it.
"""

from longrope_vllm.plan.layout import Layout
from longrope_vllm.plan.served_model import ServedModel


def context_parallel_notes(model: ServedModel, layout: Layout) -> tuple[str, str]:
    """A sentence on prefill context parallel, one on decode context parallel."""
    prefill = "Prefill: no. vLLM has it for latent attention (MLA) only, and it reorders positions, as tiers must not."
    ways = most_decode_ways(model, layout)
    if layout.tensor <= model.kv_heads:
        decode = (
            f"Decode: no. It shares out copies of heads of keys and values, and with {model.kv_heads} heads on "
            f"{layout.tensor} GPUs there are none."
        )
    elif ways < 2:
        decode = (
            f"Decode: no. {model.heads // model.kv_heads} query heads for each head of keys and values do not divide "
            f"by its {layout.copies(model)} copies."
        )
    else:
        decode = (
            f"Decode: possible, not planned with. {model.kv_heads} heads of keys and values have "
            f"{layout.copies(model)} copies each, which --decode-context-parallel-size {ways} would share out; tiers "
            "have not been run with it."
        )
    return prefill, decode


def most_decode_ways(model: ServedModel, layout: Layout) -> int:
    """The largest ``--decode-context-parallel-size`` that vLLM takes; 1 means none."""
    queries = model.heads // model.kv_heads
    return max(ways for ways in range(1, layout.copies(model) + 1) if layout.tensor % ways == 0 and queries % ways == 0)
