"""Fine-tuning with LongRoPE factors (LongRoPE, arXiv 2402.13753, section 3.3; LongRoPE2, arXiv 2502.20082).

In: a checkpoint, a ``factors.json`` and text. Out: a checkpoint that keeps its short-context quality and reads
the long one. This release holds the name only; training is on the road map in the README.
"""

__all__: list[str] = []
