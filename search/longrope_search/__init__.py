"""Search for LongRoPE rescale factors (LongRoPE, arXiv 2402.13753, section 3).

In: a checkpoint and long documents. Out: a ``factors.json`` that the server, transformers and training take
as it is. This release holds the name only; the search is on the road map in the README.
"""

__all__: list[str] = []
