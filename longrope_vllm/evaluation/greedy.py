"""The greedy continuation of a prompt, token by token, and nothing else.

In: a transformers causal language model and token ids. Out: the token ids it finds likeliest, without the one that ends
the text. ``generate`` of transformers is not used: it fills what a caller leaves out from the checkpoint's generation
config, so that a repetition penalty recommended there would change answers that are called greedy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

Ends = Callable[[list[int]], bool]
"""Whether an answer may end after these tokens."""


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text: those of the checkpoint's generation config, and the tokenizer's."""
    stated = model.generation_config.eos_token_id
    listed = stated if isinstance(stated, list) else [stated]
    return frozenset(int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None)


def never(made: list[int]) -> bool:
    """For answers that only a token of ``end_tokens`` or their length ends."""
    return False


@torch.inference_mode()
def greedy_tokens(
    model: Any, prompt: Sequence[int], *, max_tokens: int, end: frozenset[int], done: Ends = never
) -> list[int]:
    """Up to ``max_tokens`` after ``prompt``: until a token of ``end``, which is left out, or until ``done``."""
    made: list[int] = []
    unread, cache = list(prompt), None
    while len(made) < max_tokens and not done(made):
        tokens = torch.tensor([unread], device=model.device)  # [1, T] once, then [1, 1]
        output = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        # float32, as ``generate`` compares: equal bfloat16 values stay equal, and the first of them is taken
        cache, chosen = output.past_key_values, int(output.logits[0, -1].float().argmax())
        if chosen in end:
            break
        made.append(chosen)
        unread = [chosen]
    return made
