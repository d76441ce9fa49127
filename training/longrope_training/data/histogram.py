"""What was prepared, for a person at a terminal: a table by source and kind, and how long the documents are."""

import numpy as np
from rich.console import Group
from rich.table import Table

from longrope_training.data.streams import KINDS, Stream, Streams
from longrope_vllm.lengths import format_length

_WIDTH = 40
"""Characters of the longest bar."""


def prepared(streams: Streams) -> Group:
    """Tables of ``streams``; of a document in short rows each piece counts. A kind without rows is left out."""
    kinds = [kind for kind in KINDS if len(streams.of(kind).starts)]
    return Group(_by_source(streams), *(_lengths(streams.of(kind), f"Documents for {kind} rows") for kind in kinds))


def _by_source(streams: Streams) -> Table:
    table = Table(title="Text to train on", title_justify="left")
    table.add_column("source", overflow="fold")
    table.add_column("rows")
    for name in ("documents", "tokens", "share", "passes", "median", "longest"):
        table.add_column(name, justify="right")
    for portion in streams.portions:
        table.add_row(
            portion.source,
            portion.kind,
            f"{portion.documents:,}",
            f"{portion.tokens:,}",
            f"{portion.share:.1%}",
            f"{portion.passes:,}",
            f"{portion.median:,.0f}",
            f"{portion.longest:,}",
        )
    return table


def _lengths(stream: Stream, title: str) -> Table:
    """Documents by length in powers of two; bars are shares of the tokens, for long documents are few."""
    lengths = stream.lengths()
    exponents = np.frexp(lengths.astype(np.float64))[1] - 1  # exact: 2^e <= length < 2^(e+1)
    documents = np.bincount(exponents)
    tokens = np.bincount(exponents, weights=lengths)
    table = Table(title=title, title_justify="left")
    for name in ("tokens from", "documents", "share of tokens"):
        table.add_column(name, justify="right")
    table.add_column("")
    for exponent in range(int(exponents.min()), len(documents)):
        bar = "█" * round(_WIDTH * tokens[exponent] / tokens.max())
        share = tokens[exponent] / tokens.sum()
        table.add_row(format_length(2**exponent), f"{documents[exponent]:,}", f"{share:.1%}", bar)
    return table
