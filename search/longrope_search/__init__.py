"""Search for LongRoPE rescale factors (LongRoPE, arXiv 2402.13753, section 3; LongRoPE2, arXiv 2502.20082).

In: a checkpoint and long documents. Out: a ``factors.json`` that the server, transformers and training take as it is.
``command`` is the command line; read ``search`` first, then the packages ``methods``, ``scoring`` and ``model``.
"""

__all__: list[str] = []
