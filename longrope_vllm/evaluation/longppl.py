"""LongPPL: perplexity of the tokens that need their long context, instead of all of them.

Source: "What is wrong with perplexity for long-context language modeling?" (arXiv 2410.23771), section 3. A key token
is one that an evaluator finds much likelier with all of the text before it than with the last few thousand tokens (loss
lower by more than 2 nats) and likely enough with it (loss below 2).
"""

from collections.abc import Callable

import torch
from torch import Tensor

CONTEXT = 4096
"""Tokens of the short context."""
STEP = 1024
"""Tokens that share a short context, which for the last of them is longer by as much."""
GAIN = 2.0
CEILING = 2.0
"""Nats."""


def key_tokens(
    score: Callable[[Tensor], Tensor],
    tokens: Tensor,
    losses: Tensor,
    *,
    context: int = CONTEXT,
    step: int = STEP,
) -> Tensor:
    """Which of the tokens [T] from the second on are key tokens, bool [T - 1].

    ``losses`` [T - 1] are those of the whole text by the evaluator; ``score`` those of a piece
    [t] as [t - 1]. Tokens within the first ``context`` have no longer context to gain from, and are none.
    """
    found = torch.zeros(len(losses), dtype=torch.bool)
    for begin in range(0, len(tokens) - context, step):
        end = min(begin + context + step, len(tokens))
        short = score(tokens[begin:end])[context - 1 :]
        long = losses[begin + context - 1 : end - 1]
        # A server may be unable to tell the very last loss of a text that fills it.
        found[begin + context - 1 : end - 1] = (short[: len(long)] - long > GAIN) & (long < CEILING)
    return found
