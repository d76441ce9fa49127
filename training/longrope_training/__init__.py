"""Fine-tuning with LongRoPE factors (LongRoPE, arXiv 2402.13753, section 3.3; LongRoPE2, arXiv 2502.20082).

In: a checkpoint, ``factors.json`` and text. Out: a checkpoint that keeps its short-context quality and reads the long
one. ``command`` is the command line; read ``recipe`` and ``run`` first, then ``trainer`` and the packages ``data`` and
``model``.
"""

__all__: list[str] = []
